//! Our own naras, with all their files in one folder.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::check;
use crate::process;

/// The working folder, and the programs.
pub(super) struct Naras {
    pub(super) folder: PathBuf,
    program: PathBuf,
    go: PathBuf,
}

/// A nara that serves until dropped.
pub(super) struct Running {
    child: Child,
    pub(super) address: String,
    /// Its public key, base64.
    pub(super) key: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have exited, which its callers will notice.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Naras {
    /// Creates an empty folder.
    pub(super) fn new() -> Result<Self, String> {
        let target = process::target();
        let folder = target.join("interop");
        // Left over from an earlier run.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        Ok(Self {
            program: target.join("debug/nara-mesh"),
            go: folder.join("go-baseline"),
            folder,
        })
    }

    /// Builds both programs.
    pub(super) fn build(&self) -> Result<(), String> {
        process::build_programs()?;
        let source = process::root().join("benches/go-baseline");
        process::run(
            Command::new("go")
                .current_dir(source)
                .args(["build", "-o"])
                .arg(&self.go)
                .arg("."),
        )
    }

    /// Returns a command of the Go program.
    pub(super) fn go(&self, command: &str) -> Command {
        let mut go = Command::new(&self.go);
        go.arg(command);
        go
    }

    /// Returns a command of our program, without the environment of the user.
    fn ours(&self, args: &[&str]) -> Command {
        let mut ours = Command::new(&self.program);
        ours.env_clear()
            .current_dir(&self.folder)
            .arg("--quiet")
            .args(args);
        ours
    }

    fn json(&self, args: &[&str]) -> Result<Value, String> {
        let text = process::output(&mut self.ours(args))?;
        serde_json::from_str(&text).map_err(|error| format!("{args:?}: {error}: {text}"))
    }

    /// Returns the public key of one of our naras, base64; creates its soul if missing.
    pub(super) fn identity(&self, name: &str) -> Result<String, String> {
        let file = format!("{name}.soul");
        let made = if self.folder.join(&file).exists() {
            self.json(&["id", "show", "--json", "--soul-file", &file])?
        } else {
            self.json(&["id", "new", "--json", "--name", name, "--out", &file])?
        };
        let key = made["public_key"].as_str();
        Ok(key.ok_or_else(|| format!("no public key in {made}"))?.to_owned())
    }

    /// Returns the key of the Go nara, which is derived from its name and printed when it serves.
    pub(super) fn go_key(&self) -> Result<String, String> {
        let alice = self.identity("alice")?;
        let said = process::output(
            self.go("tls-server")
                .args(["--peer", "alice", "--peer-key", &alice]),
        )?;
        let said: Value = serde_json::from_str(&said).map_err(|error| format!("{error}: {said}"))?;
        Ok(said["public_key"].as_str().unwrap_or_default().to_owned())
    }

    /// Starts a nara that knows these peers and accepts only TLS.
    pub(super) fn serve(&self, name: &str, known: &[(&str, &str)]) -> Result<Running, String> {
        let key = self.identity(name)?;
        let stanzas = known
            .iter()
            .map(|(name, key)| format!("[[peer]]\nname = \"{name}\"\nkey = \"{key}\"\ntls = \"tls-only\"\n"));
        self.write("known.toml", &stanzas.collect::<String>())?;
        let soul = format!("{name}.soul");
        let mut serving = self.ours(&["serve", "--json", "--listen", "127.0.0.1:0", "--no-gossip"]);
        serving.args(["--peers", "known.toml", "--soul-file", &soul, "--data-dir", name]);
        let mut child = serving
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", self.program.display()))?;
        let stdout = child.stdout.take().ok_or("it has no standard output")?;
        let mut running = Running {
            child,
            address: String::new(),
            key,
        };
        let mut line = String::new();
        BufReader::new(stdout)
            .read_line(&mut line)
            .map_err(|error| error.to_string())?;
        let listening: Value = serde_json::from_str(&line).map_err(|error| format!("{error}: {line}"))?;
        running.address = listening["address"].as_str().unwrap_or_default().to_owned();
        Ok(running)
    }

    /// Calls the Go nara that printed `listening`: a ping and a sync, over TLS only.
    pub(super) fn call_gopher(&self, listening: &str) -> Result<(), String> {
        let said: Value = serde_json::from_str(listening).map_err(|error| format!("{error}: {listening}"))?;
        let field = |name: &str| said[name].as_str().unwrap_or_default();
        let stanza = format!(
            "[[peer]]\nname = \"gopher\"\naddress = \"{}\"\nkey = \"{}\"\ntls = \"tls-only\"\n",
            field("address"),
            field("public_key")
        );
        self.write("gopher.toml", &stanza)?;
        let as_alice = ["--soul-file", "alice.soul", "--peers", "gopher.toml", "--json"];
        let pings = self.json(&[&["ping", "gopher", "-c", "1"][..], &as_alice].concat())?;
        let ping = &pings["peers"][0];
        let as_expected = ping["security"] == "tls x509" && ping["key_matches"] == true;
        check(
            as_expected,
            "a ping over TLS with the pinned key",
            &pings.to_string(),
        )?;
        let synced = self.json(&[&["sync", "gopher", "--mode", "recent"][..], &as_alice].concat())?;
        check(synced["complete"] == true, "an answer", &synced.to_string())
    }

    pub(super) fn write(&self, file: &str, text: &str) -> Result<(), String> {
        let path = self.folder.join(file);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    }
}
