//! Disks: a GPT with one EFI system partition, which is FAT32.

use super::Content;
use anyhow::{Context, Result};
use fatfs::{Date, DateTime, FatType, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider};
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition_types::EFI;
use std::io::{Cursor, Seek, SeekFrom, Write};
use uuid::Uuid;

const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;
/// Where the only partition starts, and what is left behind it for the second copy of the table.
const MARGIN: u64 = MIB;
/// Emulators that know a disk by its geometry want whole cylinders of 16 heads and 63 sectors.
pub const CYLINDER: u64 = 16 * 63 * SECTOR;
/// FAT32 has at least 65525 clusters; this leaves no doubt.
const PARTITION_MIN: u64 = 48 * MIB;
/// Identities of the disk, its partition and its file system: fixed, so that images repeat bit for bit.
const DISK: Uuid = Uuid::from_u128(0x706f_7374_6572_4e00_8000_0000_0000_0001);
const PARTITION: Uuid = Uuid::from_u128(0x706f_7374_6572_4e00_8000_0000_0000_0002);
const VOLUME: u32 = 0x504f_5354;

/// A disk with these files on one EFI system partition.
pub fn disk(contents: &[Content]) -> Result<Vec<u8>> {
    let volume = volume(contents)?;
    let size = volume.len() as u64;
    let mut disk = Cursor::new(vec![0; (size + 2 * MARGIN).next_multiple_of(CYLINDER) as usize]);
    let sectors = u32::try_from(disk.get_ref().len() as u64 / SECTOR - 1).context("the image is larger than 2 TiB")?;
    ProtectiveMBR::with_lb_size(sectors).overwrite_lba0(&mut disk)?;
    let config = gpt::GptConfig::new().writable(true).logical_block_size(LogicalBlockSize::Lb512);
    let mut table = config.create_from_device(disk, Some(DISK))?;
    let id = table.add_partition("postern", size, EFI, 0, Some(MARGIN / SECTOR))?;
    let mut partitions = table.partitions().clone();
    let partition = partitions.get_mut(&id).context("the partition that was just made")?;
    partition.part_guid = PARTITION;
    let start = partition.first_lba * SECTOR;
    table.update_partitions(partitions)?;
    let mut disk = table.write()?;
    disk.seek(SeekFrom::Start(start))?;
    disk.write_all(&volume)?;
    Ok(disk.into_inner())
}

/// The time that all files are from: the first that FAT knows.
#[derive(Debug)]
struct Epoch;

impl TimeProvider for Epoch {
    fn get_current_date(&self) -> Date {
        Date { year: 1980, month: 1, day: 1 }
    }

    fn get_current_date_time(&self) -> DateTime {
        DateTime { date: self.get_current_date(), time: Time { hour: 0, min: 0, sec: 0, millis: 0 } }
    }
}

/// A FAT32 volume with these files.
pub fn volume(contents: &[Content]) -> Result<Vec<u8>> {
    let bytes: u64 = contents.iter().map(|(_, content)| content.len() as u64 + 64 * 1024).sum();
    let size = (bytes + bytes / 64 + 8 * MIB).max(PARTITION_MIN).next_multiple_of(MIB);
    let mut volume = Cursor::new(vec![0; size as usize]);
    let options = FormatVolumeOptions::new().fat_type(FatType::Fat32).volume_id(VOLUME).volume_label(*b"POSTERN    ");
    fatfs::format_volume(&mut volume, options.bytes_per_cluster(512))?;
    {
        let system = FileSystem::new(&mut volume, FsOptions::new().time_provider(&Epoch))?;
        for (path, content) in contents {
            let mut folder = system.root_dir();
            let mut parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
            let name = parts.pop().unwrap_or_default();
            for part in parts {
                folder = folder.create_dir(part)?;
            }
            let mut file = folder.create_file(name).with_context(|| format!("{path} cannot be put on a FAT volume"))?;
            file.truncate()?;
            file.write_all(content)?;
        }
    }
    Ok(volume.into_inner())
}

#[cfg(test)]
mod tests {
    use super::super::{DEFAULT_SETTINGS, SETTINGS};
    use super::*;
    use std::io::Read;

    fn contents() -> Vec<Content> {
        vec![("/EFI/BOOT/BOOTAA64.EFI".into(), b"application".to_vec()), (SETTINGS.into(), DEFAULT_SETTINGS.into())]
    }

    #[test]
    fn an_image_holds_its_files_and_repeats_bit_for_bit() {
        let disk = disk(&contents()).unwrap();
        assert!(disk == super::disk(&contents()).unwrap(), "the same content makes the same image");
        let table = gpt::GptConfig::new().open_from_device(Cursor::new(disk.clone())).unwrap();
        let partition = table.partitions().values().next().unwrap();
        assert_eq!((table.partitions().len(), partition.part_type_guid.guid), (1, EFI.guid));
        let start = (partition.first_lba * SECTOR) as usize;
        let system = FileSystem::new(Cursor::new(disk[start..].to_vec()), FsOptions::new()).unwrap();
        assert_eq!(system.fat_type(), FatType::Fat32);
        for (path, content) in contents() {
            let mut read = Vec::new();
            system.root_dir().open_file(path.trim_start_matches('/')).unwrap().read_to_end(&mut read).unwrap();
            assert_eq!(read, content);
        }
    }
}
