//! Draws who owns the machine's memory: one panel for each phase, one cell for each slice of memory.

use std::fmt::Write;

/// Phases of the demo, in the order of the panels, with their captions.
pub const PHASES: [(&str, &str); 3] = [
    ("before", "before: no guest yet"),
    ("during", "during: the guest runs"),
    ("after", "after: the guest is gone, its frames are back, private ones wiped"),
];

/// States in the order in which a cell stacks them, with colours that differ in brightness too, and what they mean.
const STATES: [(&str, &str, &str); 5] = [
    ("postern", "#4a148c", "the hypervisor itself"),
    ("meta", "#8e63ce", "a guest's tables, paid by the host"),
    ("private", "#c62828", "a guest's, nobody else reaches it"),
    ("shared", "#f9a825", "a guest's, open to the host"),
    ("host", "#a5d6a7", "the host's own"),
];

const COLUMNS: usize = 64;
const ROWS: usize = 16;
const CELL: usize = 14;
const PANEL_WIDTH: usize = COLUMNS * CELL;
const PANEL_HEIGHT: usize = ROWS * CELL;
const MARGIN: usize = 24;
const CAPTION: usize = 26;

/// Runs of frames in one state, for each phase.
#[derive(Default)]
pub struct Map {
    runs: Vec<Run>,
}

struct Run {
    phase: usize,
    start: u64,
    end: u64,
    state: usize,
}

impl Map {
    /// Takes `<phase> <start> <end> <state>` with hexadecimal addresses, the end exclusive; anything else is ignored.
    pub fn add(&mut self, text: &str) {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [phase, start, end, state] = words[..] else { return };
        let address = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok();
        let phase = PHASES.iter().position(|(name, _)| *name == phase);
        let state = STATES.iter().position(|(name, _, _)| *name == state);
        if let (Some(phase), Some(state), Some(start), Some(end)) = (phase, state, address(start), address(end))
            && start < end
        {
            self.runs.push(Run { phase, start, end, state });
        }
    }

    /// How many phases have at least one run.
    pub fn phases(&self) -> usize {
        (0..PHASES.len()).filter(|phase| self.runs.iter().any(|run| run.phase == *phase)).count()
    }

    /// The picture.
    pub fn render(&self) -> String {
        let first = self.runs.iter().map(|run| run.start).min().unwrap_or(0);
        let last = self.runs.iter().map(|run| run.end).max().unwrap_or(1);
        let slice = (last - first).div_ceil((COLUMNS * ROWS) as u64).next_multiple_of(4096).max(4096);
        let panel = PANEL_HEIGHT + CAPTION + MARGIN;
        let (width, height) = (PANEL_WIDTH + 2 * MARGIN, 3 * panel + MARGIN + 90);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
             font-family=\"sans-serif\" font-size=\"14\">\n<title>Who owns the memory</title>\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
        );
        for (phase, (_, caption)) in PHASES.iter().enumerate() {
            let y = MARGIN + phase * panel;
            let totals = self.totals(phase);
            let _ = writeln!(svg, "<text x=\"{MARGIN}\" y=\"{}\" font-weight=\"bold\">{caption}</text>", y + 14);
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"#555555\">{totals}</text>",
                MARGIN + PANEL_WIDTH,
                y + 14
            );
            self.panel(&mut svg, phase, first, slice, y + CAPTION);
        }
        legend(&mut svg, MARGIN + 3 * panel, first, last, slice);
        svg.push_str("</svg>\n");
        svg
    }

    /// `private 512 MiB, host 448 MiB, ...`
    fn totals(&self, phase: usize) -> String {
        let mut parts = Vec::new();
        for (state, (name, _, _)) in STATES.iter().enumerate() {
            let of_state = |run: &&Run| run.phase == phase && run.state == state;
            let bytes: u64 = self.runs.iter().filter(of_state).map(|run| run.end - run.start).sum();
            match bytes {
                0 => {}
                1..0x10_0000 => parts.push(format!("{name} {} KiB", bytes >> 10)),
                _ => parts.push(format!("{name} {:.1} MiB", bytes as f64 / f64::from(1 << 20))),
            }
        }
        parts.join(", ")
    }

    /// One panel: cells of `slice` bytes, row by row; a cell that holds several states is divided among them.
    fn panel(&self, svg: &mut String, phase: usize, first: u64, slice: u64, top: usize) {
        let _ = writeln!(
            svg,
            "<rect x=\"{MARGIN}\" y=\"{top}\" width=\"{PANEL_WIDTH}\" height=\"{PANEL_HEIGHT}\" fill=\"#eeeeee\"/>"
        );
        let cells = self.shares(phase, first, slice);
        for row in 0..ROWS {
            let line = &cells[row * COLUMNS..(row + 1) * COLUMNS];
            let mut column = 0;
            while column < COLUMNS {
                let same = line[column..].iter().take_while(|cell| **cell == line[column]).count();
                let mut y = (top + row * CELL) as f64;
                for (state, share) in line[column].iter().enumerate().filter(|(_, share)| **share > 0) {
                    let height = *share as f64 / slice as f64 * CELL as f64;
                    let _ = writeln!(
                        svg,
                        "<rect x=\"{}\" y=\"{y:.2}\" width=\"{}\" height=\"{height:.2}\" fill=\"{}\"/>",
                        MARGIN + column * CELL,
                        same * CELL,
                        STATES[state].1
                    );
                    y += height;
                }
                column += same;
            }
        }
    }

    /// Bytes of each state in each cell.
    fn shares(&self, phase: usize, first: u64, slice: u64) -> Vec<[u64; STATES.len()]> {
        let mut cells = vec![[0; STATES.len()]; COLUMNS * ROWS];
        for run in self.runs.iter().filter(|run| run.phase == phase) {
            let from = ((run.start - first) / slice) as usize;
            let to = ((run.end - 1 - first) / slice) as usize;
            for (index, cell) in cells.iter_mut().enumerate().take(to + 1).skip(from) {
                let start = first + index as u64 * slice;
                let covered = run.end.min(start + slice) - run.start.max(start);
                cell[run.state] = (cell[run.state] + covered).min(slice);
            }
        }
        cells
    }
}

fn legend(svg: &mut String, top: usize, first: u64, last: u64, slice: u64) {
    for (index, (name, colour, meaning)) in STATES.iter().enumerate() {
        let (x, y) = (MARGIN + index % 3 * 300, top + index / 3 * 24);
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{y}\" width=\"14\" height=\"14\" fill=\"{colour}\" stroke=\"#444444\"/>"
        );
        // The captions count by these names.
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{}\">{name}: {meaning}</text>", x + 20, y + 12);
    }
    let _ = writeln!(
        svg,
        "<text x=\"{MARGIN}\" y=\"{}\" fill=\"#555555\">Physical memory {first:#x} to {last:#x}, left to right, top to bottom; \
         one cell is {} KiB.</text>",
        top + 66,
        slice >> 10
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_hold_what_lies_in_them() {
        let mut map = Map::default();
        map.add("during 0x40000000 0x40100000 host");
        map.add("during 40100000 40140000 private");
        map.add("during 0x40140000 0x80000000 shared");
        map.add("during 0x1 junk");
        map.add("never 0 1 host");
        map.add("during 2 1 host");
        assert_eq!(map.phases(), 1);
        let cells = map.shares(1, 0x4000_0000, 1 << 20);
        assert_eq!(cells[0], [0, 0, 0, 0, 1 << 20]);
        assert_eq!(cells[1], [0, 0, 0x4_0000, 0xC_0000, 0]);
        assert_eq!(cells[1023], [0, 0, 0, 1 << 20, 0]);
        assert_eq!(map.totals(1), "private 256 KiB, shared 1022.8 MiB, host 1.0 MiB");
        let svg = map.render();
        for (name, _, meaning) in STATES {
            assert!(svg.contains(&format!(">{name}: {meaning}<")), "the legend explains the captions' {name}");
        }
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert_eq!(
            svg.matches("<rect").count(),
            1 + 3 + STATES.len() + 1 + 2 + 16,
            "one rectangle for each run of equal cells"
        );
    }

    #[test]
    fn nothing_to_draw_is_no_panic() {
        assert!(Map::default().render().contains("</svg>"));
    }
}
