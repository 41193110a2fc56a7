//! Debian's unmodified arm64 cloud kernel, the guest of the `realm` dialect.

use super::Cache;
use crate::progress::Step;
use anyhow::{Context, Result, bail};
use std::path::PathBuf;

const META: &str = "linux-image-cloud-arm64:arm64";

/// The kernel as a raw arm64 `Image`. Versions in backports move: what the meta package names when it is first fetched
/// stays in the cache until `setup --refresh`.
pub fn debian(cache: &Cache) -> Result<PathBuf> {
    cache.piece("kernel/debian-cloud-arm64", "trixie-backports 7+", |staging| {
        let apt = cache.trixie()?;
        let step = Step::start("Debian guest kernel");
        let version = apt.show(META)?.iter().find_map(|stanza| image_version(stanza));
        let version = version.context("trixie-backports offers no linux-image-cloud-arm64 of version 7 or later")?;
        let tree = super::beside(staging);
        super::remove(&tree)?;
        // From 7.x on, linux-image-* is empty and linux-binary-* holds the image.
        let origin = cache.unpacked(&apt, &[&format!("linux-binary-{version}:arm64")], &tree, &step)?;
        let image = tree.join(format!("usr/lib/modules/{version}/vmlinuz"));
        if !image.exists() {
            bail!("the package linux-binary-{version} holds no vmlinuz");
        }
        std::fs::rename(image, staging)?;
        super::remove(&tree)?;
        step.done(&origin);
        Ok(origin)
    })
}

/// `7.2.12+deb13-cloud-arm64` out of the dependencies of the meta package, when it is new enough to know RSI as Debian
/// packages it today.
fn image_version(stanza: &str) -> Option<String> {
    let depends = stanza.lines().find_map(|l| l.strip_prefix("Depends: "))?;
    let name = depends.split([',', '|', ' ']).find_map(|word| word.trim().strip_prefix("linux-image-"))?;
    let major: u32 = name.split('.').next()?.parse().ok()?;
    (major >= 7).then(|| name.to_owned())
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
        assert_eq!(image_version(new).as_deref(), Some("7.2.12+deb13-cloud-arm64"));
        assert_eq!(image_version("Depends: linux-image-6.12.107+deb13-cloud-arm64 (= 6.12.107-1)"), None);
        assert_eq!(series("linux-binary-7.2.12+deb13-cloud-arm64 7.2.12-1~bpo13+1").as_deref(), Some("7.2"));
    }
}
