//! Builds the Debian package, checks the files in `packaging/`, and tests the package in a container.

mod machine;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use self::machine::Machine;
use crate::process::{cargo, output, root, run as run_program, target};

/// The highest exposure that `systemd-analyze security` may report, in tenths.
const MAX_EXPOSURE: &str = "20";

/// 40,000 relocations otherwise take 24 bytes each. Glibc supports the packed form since 2.36 (Debian 12).
const PACKED_RELOCATIONS: &str = "link-arg=-Wl,-z,pack-relative-relocs";

/// The largest program to package, in MiB.
const MAX_MIB: u64 = 21;

/// The version to upgrade from: the same program with an older version number.
const OLDER: &str = "0.0.1-1";

/// A ledger of an older schema, and its number of events.
const OLDER_LEDGER: (&str, usize) = (include_str!("package/ledger-2.sql"), 6);

const NARAS: [(&str, u16); 2] = [("alice", 9632), ("bob", 9633)];

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let (profile, try_it) = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => ("dist", true),
        ["--debug"] => ("dev", true),
        ["--release"] => ("release", true),
        ["--check"] => {
            check_files()?;
            return Ok(());
        }
        ["--no-try"] => ("dist", false),
        _ => return Err(format!("package does not take {args:?}; see `cargo xtask help`")),
    };
    check_files()?;
    let program = build(profile)?;
    if profile == "dist" {
        check_size(&program)?;
    }
    describe(&program)?;
    let older = deb(profile, Some(OLDER))?;
    let newer = deb(profile, None)?;
    println!("{}", newer.display());
    if try_it {
        try_out(&older, &newer)?;
    }
    Ok(())
}

/// Checks the unit with systemd, and the alerts with Prometheus.
fn check_files() -> Result<(), String> {
    let packaging = root().join("packaging");
    let unit = packaging.join("systemd/nara-mesh@.service");
    let threshold = format!("--threshold={MAX_EXPOSURE}");
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["security", "--offline=true", "--no-pager", &threshold]);
    let found = output(analyze.arg(&unit))?;
    println!("{}", found.lines().last().unwrap_or_default().trim());
    let promtool = |what: &[&str]| {
        let mut promtool = Command::new("promtool");
        run_program(promtool.args(what).current_dir(packaging.join("prometheus")))
    };
    promtool(&["check", "rules", "alerts.yml"])?;
    promtool(&["test", "rules", "alerts_test.yml"])?;
    let dashboard = fs::read_to_string(packaging.join("grafana/nara-mesh.json"))
        .map_err(|error| format!("the dashboard cannot be read: {error}"))?;
    serde_json::from_str::<serde_json::Value>(&dashboard)
        .map(drop)
        .map_err(|error| format!("the dashboard is not JSON: {error}"))
}

fn build(profile: &str) -> Result<PathBuf, String> {
    let mut build = cargo();
    if profile == "dist" {
        build.args([
            "rustc",
            "--locked",
            "--package",
            "nara-mesh-cli",
            "--bin",
            "nara-mesh",
        ]);
        build.args(["--profile", profile, "--", "-C", PACKED_RELOCATIONS]);
    } else {
        build.args(["build", "--locked", "--bin", "nara-mesh", "--profile", profile]);
    }
    run_program(&mut build)?;
    let folder = if profile == "dev" { "debug" } else { profile };
    Ok(target().join(folder).join("nara-mesh"))
}

/// Limits the growth of the released program.
fn check_size(program: &Path) -> Result<(), String> {
    let file = fs::metadata(program).map_err(|error| format!("{}: {error}", program.display()))?;
    let mib = file.len().div_ceil(1 << 20);
    if mib > MAX_MIB {
        return Err(format!("the program has {mib} MiB, more than {MAX_MIB}"));
    }
    println!("the program has {mib} MiB");
    Ok(())
}

/// Writes completions and manual pages to where the package expects them.
fn describe(program: &Path) -> Result<(), String> {
    let folder = root().join("target/package");
    let pages = folder.join("man");
    let _ = fs::remove_dir_all(&pages);
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for (shell, file) in [
        ("bash", "nara-mesh.bash"),
        ("fish", "nara-mesh.fish"),
        ("zsh", "_nara-mesh"),
    ] {
        let script = output(Command::new(program).args(["completions", shell]))?;
        fs::write(folder.join(file), script).map_err(|error| format!("{file}: {error}"))?;
    }
    output(Command::new(program).args(["man", "--out"]).arg(&pages)).map(drop)
}

fn deb(profile: &str, version: Option<&str>) -> Result<PathBuf, String> {
    let mut deb = cargo();
    deb.args(["deb", "--package", "nara-mesh-cli", "--no-build", "--locked"]);
    deb.args(["--profile", profile, "--quiet"]);
    if let Some(version) = version {
        // To another folder, because a package replaces older ones beside it.
        deb.args(["--deb-version", version, "--output"])
            .arg(target().join("package/"));
    }
    if version.is_some() || profile != "dist" {
        // A test package needs no good compression.
        deb.arg("--fast");
    }
    // Our own tools may be below target/.
    let tools = target().join("tools/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::iter::once(tools).chain(std::env::split_paths(&path));
    let path = std::env::join_paths(paths).map_err(|error| error.to_string())?;
    let file = output(deb.env("PATH", path))?;
    let file = file.lines().last().unwrap_or_default().trim();
    if file.is_empty() {
        return Err("cargo deb did not print the name of the package".to_owned());
    }
    Ok(PathBuf::from(file))
}

/// Installs, starts, upgrades and purges the package in a container.
fn try_out(older: &Path, newer: &Path) -> Result<(), String> {
    let machine = Machine::start(&target().join("package"))?;
    machine.copy(older, "older.deb")?;
    machine.copy(newer, "newer.deb")?;

    machine.run("dpkg --install /root/older.deb")?;
    for (name, port) in NARAS {
        set_up(&machine, name, port)?;
    }
    machine
        .run("cat /root/*.stanza | tee /etc/nara-mesh/alice/peers.toml > /etc/nara-mesh/bob/peers.toml")?;
    // Returns when the naras have reported that they are ready.
    machine.run("systemctl enable --now nara-mesh@alice nara-mesh@bob")?;
    machine.run("nara-mesh health --name alice")?;
    let status = machine.run("systemctl show --property StatusText nara-mesh@bob")?;
    expect(&status, "StatusText=1 peer, ")?;
    let owner = machine.run("ps -o user= -p $(systemctl show --property MainPID --value nara-mesh@alice)")?;
    expect(&owner, "nara-me")?;
    let seen = machine.run(
        "ls /proc/$(systemctl show --property MainPID --value nara-mesh@alice)/root/var/lib/nara-mesh \
         /proc/$(systemctl show --property MainPID --value nara-mesh@alice)/root/etc/nara-mesh",
    )?;
    if seen.contains("bob") {
        return Err(format!("alice sees the files of bob:\n{seen}"));
    }
    report("two naras run under systemd, each in its own sandbox");

    machine.run("nara-mesh --config /etc/nara-mesh/bob/config.toml dm alice 'hello from bob'")?;
    let events = "nara-mesh --config /etc/nara-mesh/alice/config.toml events";
    expect(&machine.run(events)?, "hello from bob")?;
    machine.run("systemctl reload nara-mesh@alice && systemctl is-active nara-mesh@alice")?;
    let journal =
        machine.run("journalctl --unit nara-mesh@alice --output json --no-pager _TRANSPORT=journal")?;
    expect(&journal, "\"SYSLOG_IDENTIFIER\":\"nara-mesh\"")?;
    expect(&journal, "reloaded: configuration, peers and decisions")?;
    report("they talk, reload, and log to the journal");

    let alice = "nara-mesh --config /etc/nara-mesh/alice/config.toml";
    machine.run(&format!(
        "{alice} backup /var/tmp/alice.db && systemctl stop nara-mesh@alice && \
         {alice} restore /var/tmp/alice.db --replace && systemctl start nara-mesh@alice"
    ))?;
    expect(&machine.run(events)?, "hello from bob")?;
    report("a backup taken meanwhile is restored");

    let process = "systemctl show --property MainPID --value nara-mesh@alice";
    let before = machine.run(process)?;
    machine.run("dpkg --install /root/newer.deb")?;
    if machine.run(process)? == before {
        return Err("the upgrade did not start alice again".to_owned());
    }
    machine.run("nara-mesh health --name alice && nara-mesh health --listen 127.0.0.1:9633 --name bob")?;
    expect(&machine.run(events)?, "hello from bob")?;
    report("an upgrade restarts them with their ledgers");

    take_over(&machine)?;
    report("an upgrade converts a ledger of an older schema, with all events");
    wait_for_address(&machine)?;
    report("a start waits for a missing address, beyond the start timeout of the unit");
    join_within_the_sandbox(&machine)?;
    report("an embedded node works within the sandbox of the unit");

    machine.run("dpkg --purge nara-mesh")?;
    let left = machine.run(
        "! pgrep --exact nara-mesh && ! id nara-mesh 2>/dev/null && ! test -e /var/lib/nara-mesh && find /etc/nara-mesh -type f",
    )?;
    let mut left: Vec<&str> = left.lines().collect();
    left.sort_unstable();
    if left != ["/etc/nara-mesh/alice/soul.toml", "/etc/nara-mesh/bob/soul.toml"] {
        return Err(format!("a purge left {left:?} instead of only the souls"));
    }
    report("a purge leaves only the souls");

    contain(&machine)?;
    report("the layout of the container image works: another user, a read-only root, one volume");
    Ok(())
}

/// Sets up a nara in the container, as `docs/operate.md` describes.
fn set_up(machine: &Machine, name: &str, port: u16) -> Result<(), String> {
    machine.run(&format!(
        "install --directory --mode 0750 --group nara-mesh /etc/nara-mesh/{name} && cd /etc/nara-mesh/{name} && \
         nara-mesh id new --name {name} --out soul.toml && \
         sed 's/NAME/{name}/; s/^kind = .*/kind = \"loopback\"\\nport = {port}/; s/^# peers/peers/' \
         /usr/share/doc/nara-mesh/examples/config.toml > config.toml && \
         nara-mesh id show --soul-file soul.toml --stanza 127.0.0.1:{port} > /root/{name}.stanza"
    ))?;
    Ok(())
}

/// Upgrades while alice's ledger has an older schema.
fn take_over(machine: &Machine) -> Result<(), String> {
    let (ledger, events) = OLDER_LEDGER;
    machine.write("ledger-2.sql", ledger)?;
    let file = "/var/lib/nara-mesh/alice/ledger.db";
    machine.run(&format!(
        "systemctl stop nara-mesh@alice && mv /var/lib/nara-mesh/alice/ledger.db* /var/tmp && \
         runuser -u nara-mesh -- sqlite3 {file} < /root/ledger-2.sql && \
         dpkg --install /root/newer.deb && systemctl start nara-mesh@alice"
    ))?;
    let shown = machine.run(&format!(
        "nara-mesh --config /etc/nara-mesh/alice/config.toml events --by carol && nara-mesh health --name alice && \
         systemctl stop nara-mesh@alice && sqlite3 {file} \"SELECT 'version ' || user_version FROM pragma_user_version\""
    ))?;
    let found = shown.lines().filter(|line| line.contains("carol")).count();
    if found != events {
        return Err(format!("{found} of {events} events were converted:\n{shown}"));
    }
    if shown.contains("version 2\n") || !shown.contains("version ") {
        return Err(format!("the schema was not upgraded:\n{shown}"));
    }
    machine.run(&format!(
        "rm {file}* && mv /var/tmp/ledger.db* /var/lib/nara-mesh/alice && systemctl start nara-mesh@alice"
    ))?;
    Ok(())
}

/// Makes a nara wait for a missing address, beyond its start timeout.
fn wait_for_address(machine: &Machine) -> Result<(), String> {
    machine.run(
        "mkdir /root/late && nara-mesh id new --name late --out /root/late/late.soul && touch /root/late/peers.toml && \
         systemd-run --quiet --no-block --unit late --service-type notify --property TimeoutStartSec=3 \
         nara-mesh serve --soul-file /root/late/late.soul --peers /root/late/peers.toml --data-dir /root/late/data \
         --listen 10.9.0.1:9640 && sleep 8",
    )?;
    let waits = machine.run("systemctl show --property ActiveState --property StatusText late")?;
    expect(&waits, "ActiveState=activating")?;
    expect(&waits, "waiting for 10.9.0.1:9640")?;
    machine.run(
        "ip address add 10.9.0.1/32 dev lo && for try in 1 2 3 4 5 6 7 8 9 10; do \
         systemctl is-active --quiet late && break; sleep 1; done; systemctl is-active late && \
         nara-mesh health --listen 10.9.0.1:9640 --name late && systemctl stop late",
    )?;
    Ok(())
}

/// Starts an embedded node within the unit, without a reachable control server. It gets as far as contacting
/// the server: with its keys, its sockets and the addresses of the machine.
fn join_within_the_sandbox(machine: &Machine) -> Result<(), String> {
    machine.run(
        "systemctl stop nara-mesh@bob && cd /etc/nara-mesh/bob && cp config.toml /root/bob.config && \
         sed --in-place 's/^kind = .*/kind = \"embedded\"\\ncontrol_url = \"https:\\/\\/127.0.0.1:1\"/' config.toml && \
         systemctl start --no-block nara-mesh@bob && sleep 5",
    )?;
    let state = machine.run(
        "systemctl show --property ActiveState --property StatusText nara-mesh@bob && \
         process=$(systemctl show --property MainPID --value nara-mesh@bob) && \
         grep --extended-regexp '^(Uid|CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/$process/status && \
         ls -l /proc/$process/fd && ls /var/lib/nara-mesh/bob",
    )?;
    expect(&state, "ActiveState=activating")?;
    expect(&state, "StatusText=joining the tailnet: ")?;
    expect(&state, "CapEff:\t0000000000000000")?;
    expect(&state, "CapBnd:\t0000000000000000")?;
    expect(&state, "Seccomp:\t2")?;
    expect(&state, "node.key")?;
    let journal = machine.run("journalctl --unit nara-mesh@bob --no-pager --since '-20s'")?;
    if journal.contains("not permitted") || journal.contains("not supported") {
        return Err(format!("the sandbox blocks the node:\n{journal}"));
    }
    machine.run(
        "systemctl stop nara-mesh@bob; cp /root/bob.config /etc/nara-mesh/bob/config.toml && systemctl start nara-mesh@bob",
    )?;
    Ok(())
}

/// Runs the program in the layout of `packaging/Containerfile`.
fn contain(machine: &Machine) -> Result<(), String> {
    let program = "/usr/local/bin/nara-mesh";
    machine.run(&format!(
        "dpkg --fsys-tarfile /root/newer.deb | tar --extract --file - --to-stdout ./usr/bin/nara-mesh > {program} && \
         chmod 755 {program} && useradd --uid 10001 --no-create-home contained && mkdir --parents /data && {program} id new --name alice --out /data/soul.toml && \
         chown -R 10001:10001 /data"
    ))?;
    // Equivalent to `podman run --read-only --user 10001 --volume …:/data`.
    machine.run(&format!(
        "systemd-run --quiet --unit contained --service-type notify --property NotifyAccess=main \
         --uid 10001 --gid 10001 --property ReadOnlyPaths=/ --property ReadWritePaths=/data \
         --property CapabilityBoundingSet= \
         --property NoNewPrivileges=yes --setenv NARA_MESH_SOUL_FILE=/data/soul.toml \
         --setenv NARA_MESH_DATA_DIR=/data --setenv NARA_MESH_NETWORK=loopback {program} up"
    ))?;
    machine.run(&format!(
        "{program} health && test -s /data/ledger.db && systemctl stop contained"
    ))?;
    Ok(())
}

fn expect(text: &str, part: &str) -> Result<(), String> {
    if text.contains(part) {
        Ok(())
    } else {
        Err(format!("expected {part:?} in:\n{text}"))
    }
}

fn report(what: &str) {
    println!("ok: {what}");
}
