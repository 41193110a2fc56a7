//! Whether this machine's CPU gives virtual machines VMX.

use anyhow::{Result, bail};
use std::fs;
use std::path::Path;

const DEVICE: &str = "/dev/kvm";
/// `Y` or `1` where a guest may have VMX.
const NESTED: &str = "/sys/module/kvm_intel/parameters/nested";

/// Looks for both: KVM, and nested VMX.
pub fn check() -> Result<()> {
    usable(Path::new(DEVICE).exists(), fs::OpenOptions::new().read(true).write(true).open(DEVICE).is_ok())?;
    nested(fs::read_to_string(NESTED).ok().as_deref())
}

fn usable(there: bool, opens: bool) -> Result<()> {
    match (there, opens) {
        (true, true) => Ok(()),
        (true, false) => bail!("--accel kvm: {DEVICE} may not be opened by this user (add the user to the group kvm)"),
        (false, _) => bail!("--accel kvm: this machine has no {DEVICE}; leave --accel out to use Bochs"),
    }
}

/// Looks at what `kvm_intel` says of nested VMX, if it is loaded.
fn nested(setting: Option<&str>) -> Result<()> {
    match setting.map(str::trim) {
        Some("Y" | "1") => Ok(()),
        Some(_) => bail!("--accel kvm: KVM does not give its guests VMX (load kvm_intel with nested=1)"),
        None => bail!(
            "--accel kvm: kvm_intel is not loaded, and Postern needs an Intel CPU with VT-x; leave --accel out to use Bochs"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        assert!(usable(true, true).is_ok() && nested(Some("Y\n")).is_ok() && nested(Some("1\n")).is_ok());
        let text = |result: Result<()>| result.unwrap_err().to_string();
        assert!(text(usable(false, false)).contains("has no /dev/kvm"));
        assert!(text(usable(true, false)).contains("may not be opened"));
        assert!(text(nested(Some("N\n"))).contains("nested=1"));
        assert!(text(nested(None)).contains("Intel"));
    }
}
