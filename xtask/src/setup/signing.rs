//! The tools that sign programs for Secure Boot, and make keys for tests.

use super::Cache;
use super::private::Private;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The tools, fetched if need be.
pub fn tools(cache: &Cache) -> Result<Private> {
    Private::find(cache, "signing", "signing tools", &["sbsigntool", "openssl"], &[])
}

/// Refuses a key and a certificate that do not belong together.
pub fn pair(tools: &Private, key: &Path, cert: &Path) -> Result<()> {
    let public = |arguments: &[&str], file: &Path| {
        finish(tools.command("openssl").args(arguments).arg("-in").arg(file), "openssl")
            .with_context(|| format!("{} cannot be understood", file.display()))
    };
    if public(&["pkey", "-pubout"], key)? != public(&["x509", "-noout", "-pubkey"], cert)? {
        bail!("{} is not the certificate of the key {}", cert.display(), key.display());
    }
    Ok(())
}

/// Writes a signed copy of a program.
pub fn sign(tools: &Private, program: &Path, key: &Path, cert: &Path, out: &Path) -> Result<()> {
    let mut command = tools.command("sbsign");
    command.arg("--key").arg(key).arg("--cert").arg(cert).arg("--output").arg(out).arg(program);
    finish(&mut command, "sbsign").map(drop)
}

/// A key that is used once.
pub struct Key {
    /// The key (PEM).
    pub key: PathBuf,
    /// Its certificate (PEM).
    pub cert: PathBuf,
    /// The same as firmware keeps it (DER).
    pub der: Vec<u8>,
}

/// Makes a key with a certificate that it signs itself, in `folder`.
pub fn make_key(tools: &Private, folder: &Path) -> Result<Key> {
    let [key, cert, der, config] = ["key.pem", "cert.pem", "cert.der", "openssl.cnf"].map(|name| folder.join(name));
    fs::write(&config, "[req]\ndistinguished_name = name\n[name]\n")?;
    let mut make = tools.command("openssl");
    make.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-sha256", "-days", "3650", "-subj", "/CN=test/"]);
    make.arg("-config").arg(&config).arg("-keyout").arg(&key).arg("-out").arg(&cert);
    finish(&mut make, "openssl")?;
    let mut convert = tools.command("openssl");
    convert.args(["x509", "-outform", "DER", "-in"]).arg(&cert).arg("-out").arg(&der);
    finish(&mut convert, "openssl")?;
    Ok(Key { key, cert, der: fs::read(der)? })
}

/// Runs a tool; what it says.
fn finish(command: &mut Command, name: &str) -> Result<Vec<u8>> {
    let done = command.stdin(Stdio::null()).output().with_context(|| format!("{name} does not start"))?;
    if !done.status.success() {
        bail!("{name}: {}", String::from_utf8_lossy(&done.stderr).lines().last().unwrap_or("no reason given"));
    }
    Ok(done.stdout)
}
