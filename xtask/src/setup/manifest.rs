//! Remembers the SHA-256 of everything in the cache, and notices damage cheaply.
//!
//! Each entry has two digests: one over all content, and one over names, sizes and times. While the cheap one holds, the
//! content is not read again; when it does not, the content decides.

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What is recorded of one file or folder of the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path below the cache folder.
    pub name: String,
    /// What it was made from and how; another recipe means that it has to be made again.
    pub recipe: String,
    /// Packages and versions it came from, for the curious.
    pub origin: String,
    content: String,
    times: String,
}

/// All entries, in `manifest` in the cache folder.
pub struct Manifest {
    file: PathBuf,
    entries: Vec<Entry>,
}

/// State of a cache entry.
#[derive(Debug, PartialEq, Eq)]
pub enum State {
    /// As recorded.
    Good,
    /// Not there, or made by another recipe.
    Absent,
    /// Its content differs from what was recorded.
    Damaged,
}

impl Manifest {
    /// Reads the manifest; an absent one is empty.
    pub fn open(cache: &Path) -> Result<Self> {
        let file = cache.join("manifest");
        let text = fs::read_to_string(&file).unwrap_or_default();
        let entries = text.lines().filter_map(parse).collect();
        Ok(Manifest { file, entries })
    }

    /// All entries.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Compares an entry with what is on disk; `thorough` reads all content.
    pub fn check(&mut self, cache: &Path, name: &str, recipe: &str, thorough: bool) -> Result<State> {
        let path = cache.join(name);
        let Some(entry) = self.entries.iter_mut().find(|e| e.name == name && e.recipe == recipe) else {
            return Ok(State::Absent);
        };
        if !path.exists() {
            return Ok(State::Absent);
        }
        let times = digest(&path, Depth::Times)?;
        if times == entry.times && !thorough {
            return Ok(State::Good);
        }
        if digest(&path, Depth::Content)? != entry.content {
            return Ok(State::Damaged);
        }
        if times != entry.times {
            entry.times = times;
            self.save()?;
        }
        Ok(State::Good)
    }

    /// Records what is now on disk.
    pub fn record(&mut self, cache: &Path, name: &str, recipe: &str, origin: &str) -> Result<()> {
        let path = cache.join(name);
        self.entries.retain(|e| e.name != name);
        self.entries.push(Entry {
            name: name.into(),
            recipe: recipe.into(),
            origin: origin.into(),
            content: digest(&path, Depth::Content)?,
            times: digest(&path, Depth::Times)?,
        });
        self.entries.sort_by(|a, b| a.name.cmp(&b.name));
        self.save()
    }

    fn save(&self) -> Result<()> {
        let line = |e: &Entry| format!("{}\t{}\t{}\t{}\t{}\n", e.name, e.content, e.times, e.recipe, e.origin);
        let text: String = self.entries.iter().map(line).collect();
        let new = self.file.with_extension("new");
        fs::write(&new, text)?;
        fs::rename(&new, &self.file).with_context(|| format!("{} cannot be written", self.file.display()))
    }
}

fn parse(line: &str) -> Option<Entry> {
    let mut fields = line.split('\t').map(str::to_owned);
    let (name, content, times) = (fields.next()?, fields.next()?, fields.next()?);
    Some(Entry { name, content, times, recipe: fields.next()?, origin: fields.next()? })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Times,
    Content,
}

/// Digest of a file, or of all files below a folder with their names.
fn digest(path: &Path, depth: Depth) -> Result<String> {
    let mut hash = Sha256::new();
    add(path, "", depth, &mut hash).with_context(|| format!("{} cannot be read", path.display()))?;
    Ok(hex(&hash.finalize()))
}

fn add(path: &Path, name: &str, depth: Depth, hash: &mut Sha256) -> Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if meta.is_dir() {
        let mut names: Vec<_> = path.read_dir()?.flatten().map(|e| e.file_name()).collect();
        names.sort();
        for child in names {
            add(&path.join(&child), &format!("{name}/{}", child.to_string_lossy()), depth, hash)?;
        }
    } else if meta.is_symlink() {
        hash.update(format!("{name} -> {}\n", fs::read_link(path)?.display()));
    } else if depth == Depth::Times {
        hash.update(format!("{name} {} {}.{}\n", meta.len(), meta.mtime(), meta.mtime_nsec()));
    } else {
        hash.update(format!("{name} {} ", meta.len()));
        let mut file = fs::File::open(path)?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                n => hash.update(&buffer[..n]),
            }
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_absence_damage_and_another_recipe() {
        let cache = std::env::temp_dir().join(format!("postern-manifest-{}", std::process::id()));
        fs::create_dir_all(cache.join("tree")).unwrap();
        fs::write(cache.join("tree/a"), "one").unwrap();
        let mut manifest = Manifest::open(&cache).unwrap();
        assert_eq!(manifest.check(&cache, "tree", "r", false).unwrap(), State::Absent);
        manifest.record(&cache, "tree", "r", "somewhere").unwrap();

        let mut manifest = Manifest::open(&cache).unwrap();
        assert_eq!(manifest.check(&cache, "tree", "r", true).unwrap(), State::Good);
        assert_eq!(manifest.check(&cache, "tree", "other", false).unwrap(), State::Absent);
        fs::write(cache.join("tree/a"), "two").unwrap();
        assert_eq!(manifest.check(&cache, "tree", "r", true).unwrap(), State::Damaged);
        fs::write(cache.join("tree/a"), "one").unwrap();
        assert_eq!(manifest.check(&cache, "tree", "r", false).unwrap(), State::Good, "same content, another time");
        fs::remove_dir_all(&cache).unwrap();
    }
}
