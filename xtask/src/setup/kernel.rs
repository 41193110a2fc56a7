//! Debian's unmodified cloud kernels: the guests of the `realm` and `tdx` dialects.

use super::Cache;
use super::apt;
use crate::arch::Arch;
use crate::progress::Step;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// Kernel series that Debian offers: the one of the release and the one of its backports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Series {
    /// 6.12, in one package.
    Stable,
    /// 7 or later, in several packages.
    Backports,
}

/// Modules that a TDX guest's report needs, each after what it depends on. The first names are of 6.12, the others of 7.
const REPORT_MODULES: [&[&str]; 3] = [
    &["fs/configfs/configfs.ko.xz"],
    &["drivers/virt/coco/tsm.ko.xz", "drivers/virt/coco/guest/tsm_report.ko.xz"],
    &["drivers/virt/coco/tdx-guest/tdx-guest.ko.xz"],
];

/// The arm64 kernel as a raw `Image`. Versions in backports move: what the meta package names when it is first fetched
/// stays in the cache until `setup --refresh`.
pub fn arm64(cache: &Cache) -> Result<PathBuf> {
    cache.piece("kernel/debian-cloud-arm64", "trixie-backports 7+", |staging| {
        let step = Step::start("Debian arm64 kernel");
        let tree = super::beside(staging);
        let (_, image, origin) = unpack(cache, Arch::Aarch64, Series::Backports, &["binary"], &tree, &step)?;
        fs::rename(image, staging)?;
        super::remove(&tree)?;
        step.done(&origin);
        Ok(origin)
    })
}

/// A folder with an x86-64 kernel (`vmlinuz`, a bzImage) and, in `modules/<version>`, what reports need, named in the order
/// of loading.
fn amd64(cache: &Cache, series: Series) -> Result<PathBuf> {
    let (name, packages): (_, &[&str]) = match series {
        Series::Stable => ("kernel/debian-6.12-cloud-amd64", &["image"]),
        Series::Backports => ("kernel/debian-cloud-amd64", &["binary", "modules"]),
    };
    cache.piece(name, "trixie, report modules", |staging| {
        let step = Step::start("Debian x86-64 kernel");
        let tree = super::beside(staging);
        let (version, image, origin) = unpack(cache, Arch::X86_64, series, packages, &tree, &step)?;
        let modules = staging.join("modules").join(&version);
        fs::create_dir_all(&modules)?;
        fs::rename(image, staging.join("vmlinuz"))?;
        let source = tree.join(format!("usr/lib/modules/{version}/kernel"));
        for (order, names) in REPORT_MODULES.iter().enumerate() {
            let file = names.iter().map(|name| source.join(name)).find(|file| file.exists());
            let file = file.with_context(|| format!("Debian's kernel {version} has no module {}", names[0]))?;
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            fs::rename(&file, modules.join(format!("{order}-{name}")))?;
        }
        super::remove(&tree)?;
        step.done(&origin);
        Ok(origin)
    })
}

/// The x86-64 kernel of a series, a bzImage.
pub fn bzimage(cache: &Cache, series: Series) -> Result<PathBuf> {
    Ok(amd64(cache, series)?.join("vmlinuz"))
}

/// Folders with the modules of the x86-64 kernels, each named after its kernel's version.
pub fn report_modules(cache: &Cache) -> Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for series in [Series::Stable, Series::Backports] {
        folders.extend(amd64(cache, series)?.join("modules").read_dir()?.flatten().map(|entry| entry.path()));
    }
    Ok(folders)
}

/// Unpacks `linux-<package>-<version>` into `tree`; the version, the path of the image, and where it came from.
fn unpack(
    cache: &Cache,
    arch: Arch,
    series: Series,
    packages: &[&str],
    tree: &Path,
    step: &Step,
) -> Result<(String, PathBuf, String)> {
    let apt = cache.trixie()?;
    let debian = arch.debian();
    let stanzas = apt.show(&format!("linux-image-cloud-{debian}:{debian}"))?;
    let version = stanzas.iter().find_map(|stanza| image_version(stanza, series));
    let version =
        version.with_context(|| format!("Debian offers no linux-image-cloud-{debian} of the wanted series"))?;
    super::remove(tree)?;
    let names: Vec<String> = packages.iter().map(|package| format!("linux-{package}-{version}:{debian}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let files = apt.packages(&names, step)?;
    apt::unpack(&files, tree, step)?;
    apt.clean()?;
    // From 7.x on, linux-image-* is empty and linux-binary-* holds the image.
    let places = [format!("usr/lib/modules/{version}/vmlinuz"), format!("boot/vmlinuz-{version}")];
    match places.iter().map(|place| tree.join(place)).find(|image| image.exists()) {
        Some(image) => Ok((version, image, apt::identity(&files[0]))),
        None => bail!("the package linux-{}-{version} holds no vmlinuz", packages[0]),
    }
}

/// `7.2.12+deb13-cloud-arm64` out of the dependencies of the meta package, when it is of the series.
fn image_version(stanza: &str, series: Series) -> Option<String> {
    let depends = stanza.lines().find_map(|l| l.strip_prefix("Depends: "))?;
    let name = depends.split([',', '|', ' ']).find_map(|word| word.trim().strip_prefix("linux-image-"))?;
    let major: u32 = name.split('.').next()?.parse().ok()?;
    (if major >= 7 { Series::Backports } else { Series::Stable } == series).then(|| name.to_owned())
}

/// Series of a cached Debian kernel (`7.2`), out of the origin noted when it was fetched.
pub fn series(origin: &str) -> Option<String> {
    let version = origin.strip_prefix("linux-binary-")?;
    let mut parts = version.split('.');
    Some(format!("{}.{}", parts.next()?, parts.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolves_the_meta_package() {
        let new = "Package: linux-image-cloud-arm64\nDepends: linux-base-cloud-arm64 (= 7.2.12-1~bpo13+1), \
                   linux-image-7.2.12+deb13-cloud-arm64 (= 7.2.12-1~bpo13+1)";
        let stable = "Depends: linux-image-6.12.107+deb13-cloud-arm64 (= 6.12.107-1)";
        assert_eq!(image_version(new, Series::Backports).as_deref(), Some("7.2.12+deb13-cloud-arm64"));
        assert_eq!(image_version(new, Series::Stable), None);
        assert_eq!(image_version(stable, Series::Backports), None);
        assert_eq!(image_version(stable, Series::Stable).as_deref(), Some("6.12.107+deb13-cloud-arm64"));
        assert_eq!(series("linux-binary-7.2.12+deb13-cloud-arm64 7.2.12-1~bpo13+1").as_deref(), Some("7.2"));
    }
}
