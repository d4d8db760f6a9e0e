use std::fs;

use crate::{ALICE, nara_mesh, new_soul, run, text};

#[test]
fn a_bad_value_names_where_it_came_from() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.toml"), "timeout = \"later\"\n").unwrap();
    let flag = run(folder.path(), 2, &["ping", "a", "--timeout", "soon"]);
    assert!(
        text(&flag.stderr).contains("invalid value 'soon' for '--timeout <DURATION>': expected a number")
    );
    let policy = run(
        folder.path(),
        2,
        &["ping", "a", "--timeout", "1s", "--tls", "yes"],
    );
    assert!(text(&policy.stderr).contains("possible values: plain, tls, tls-only"));
    let file = run(folder.path(), 2, &["ping", "a", "--config", "config.toml"]);
    assert!(text(&file.stderr).contains("error: config.toml: line 1: timeout: \"later\": expected a number"));
    fs::write(folder.path().join("port.toml"), "\nv1_port = 7433\n").unwrap();
    let file = run(folder.path(), 2, &["serve", "--config", "port.toml"]);
    let told = "error: port.toml: line 2: v1_port: \"7433\": expected one of true, false";
    assert!(text(&file.stderr).contains(told), "{}", text(&file.stderr));
    fs::write(folder.path().join("table.toml"), "network = \"loopback\"\n").unwrap();
    let file = run(folder.path(), 2, &["up", "--config", "table.toml"]);
    let told = "error: table.toml: line 1: network: expected a table, which begins with `[network]`";
    assert!(text(&file.stderr).contains(told), "{}", text(&file.stderr));
    let mut command = nara_mesh(folder.path());
    let env = command
        .args(["ping", "a"])
        .env("NARA_MESH_TIMEOUT", "never")
        .output()
        .unwrap();
    assert!(text(&env.stderr).contains("the environment variable NARA_MESH_TIMEOUT: \"never\": expected"));
}

#[cfg(unix)]
#[test]
fn nonsense_in_the_environment_is_refused_and_nothing_counts_as_not_set() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    let folder = tempfile::tempdir().unwrap();
    new_soul(folder.path(), "alice");
    for (variable, value, told) in [
        (
            "NARA_MESH_TRUST",
            &b"closed\xff"[..],
            "the environment variable NARA_MESH_TRUST",
        ),
        (
            "NARA_MESH_NAME",
            b"\xff",
            "the environment variable NARA_MESH_NAME: not UTF-8",
        ),
        ("NARA_MESH_TIMEOUT", b"30d", "longer than 24h"),
        ("NARA_MESH_DATA_DIR", b"~nobody/x", "~USER is not supported"),
        (
            "NARA_MESH_NETWORK",
            b"wifi",
            "expected one of tailscaled, managed",
        ),
    ] {
        let mut command = nara_mesh(folder.path());
        let output = command
            .args(["ping", "127.0.0.1:1"])
            .env(variable, OsStr::from_bytes(value))
            .output()
            .unwrap();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(told), "{variable}: {stderr}");
        let mut command = nara_mesh(folder.path());
        let args = ["id", "show", "--soul-file", "alice.soul"];
        let output = command.args(args).env(variable, "").output().unwrap();
        assert!(output.status.success(), "{variable}");
    }
}

#[test]
fn a_tilde_in_the_configuration_file_is_the_home_folder() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("home")).unwrap();
    new_soul(folder.path(), "alice");
    fs::rename(
        folder.path().join("alice.soul"),
        folder.path().join("home/alice.soul"),
    )
    .unwrap();
    fs::write(
        folder.path().join("config.toml"),
        "soul_file = \"~/alice.soul\"\n",
    )
    .unwrap();
    let mut command = nara_mesh(folder.path());
    let output = command
        .args(["id", "show", "--config", "config.toml"])
        .env("HOME", folder.path().join("home"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    new_soul(folder.path(), "alice");
    fs::write(
        folder.path().join("config.toml"),
        "soul_file = \"alice.soul\"\nname = \"file\"\n",
    )
    .unwrap();
    let name_of = |flags: &[&str], env: &[(&str, &str)]| {
        let mut command = nara_mesh(folder.path());
        command
            .args(["id", "show", "--config", "config.toml"])
            .args(flags)
            .envs(env.iter().copied());
        // Every name except alice is refused, and the error contains it.
        text(&command.output().unwrap().stderr)
    };
    assert!(name_of(&[], &[]).contains("another name than file"));
    assert!(name_of(&[], &[("NARA_MESH_NAME", "env")]).contains("another name than env"));
    assert!(name_of(&["--name", "flag"], &[("NARA_MESH_NAME", "env")]).contains("another name than flag"));
    assert_eq!(name_of(&["--name", "alice"], &[("NARA_MESH_NAME", "env")]), "");
}

#[test]
fn an_unknown_key_of_the_configuration_is_named_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("config.toml"),
        "name = \"a\"\ncolour = \"red\"\n",
    )
    .unwrap();
    let output = run(folder.path(), 2, &["ping", "a", "--config", "config.toml"]);
    let stderr = text(&output.stderr);
    assert!(
        stderr.contains("config.toml: line 2: ") && stderr.contains("colour"),
        "{stderr}"
    );
    assert!(stderr.contains("did you mean `color`?"), "{stderr}");
    fs::write(folder.path().join("config.toml"), "qqqq = 1\n").unwrap();
    let output = run(folder.path(), 2, &["ping", "a", "--config", "config.toml"]);
    let stderr = text(&output.stderr);
    assert!(stderr.contains("hint: the keys are name, "), "{stderr}");
}

#[test]
fn an_empty_home_is_fine_and_default_files_are_found_in_a_real_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = nara_mesh(folder.path());
    let output = command
        .env("HOME", "")
        .args(["id", "new", "--name", "alice"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("hint: pass --out FILE"));
    for args in [
        ["id", "new", "--name", "alice"],
        ["id", "show", "--color", "never"],
    ] {
        let mut command = nara_mesh(folder.path());
        let output = command.env("HOME", folder.path()).args(args).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    assert!(folder.path().join(".config/nara-mesh/soul.toml").is_file());
}

#[test]
fn colours_are_used_when_asked_for_and_not_in_a_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let failing = ["ping", "nobody"];
    let plain = run(folder.path(), 2, &failing);
    assert!(!text(&plain.stderr).contains('\x1b'));
    let coloured = run(folder.path(), 2, &[&failing[..], &["--color", "always"]].concat());
    assert!(text(&coloured.stderr).contains('\x1b'));
}

#[test]
fn the_settings_in_force_say_where_they_come_from() {
    let folder = tempfile::tempdir().unwrap();
    new_soul(folder.path(), "alice");
    fs::write(
        folder.path().join("config.toml"),
        "timeout = \"7s\"\nlisten = \"127.0.0.1:4000\"\n[network]\nskip = [\"tool\", \"bench\"]\n",
    )
    .unwrap();
    let args = [
        "config",
        "show",
        "--json",
        "--config",
        "config.toml",
        "--grace",
        "1s",
    ];
    let output = nara_mesh(folder.path())
        .args(args)
        .env("NARA_MESH_TLS", "plain")
        .output()
        .unwrap();
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let setting = |key: &str| {
        let settings = shown["settings"].as_array().unwrap();
        let setting = settings.iter().find(|setting| setting["key"] == key).unwrap();
        let values: Vec<&str> = setting["values"]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v.as_str().unwrap())
            .collect();
        (values.join(" "), setting["from"].as_str().unwrap().to_owned())
    };
    let expected = |value: &str, from: &str| (value.to_owned(), from.to_owned());
    assert_eq!(setting("timeout"), expected("7s", "config.toml: line 1"));
    assert_eq!(
        setting("listen"),
        expected("127.0.0.1:4000", "config.toml: line 2")
    );
    assert_eq!(
        setting("network.skip"),
        expected("tool bench", "config.toml: line 4")
    );
    assert_eq!(setting("grace"), expected("1s", "the command line"));
    assert_eq!(
        setting("tls"),
        expected("plain", "the environment variable NARA_MESH_TLS")
    );
    assert_eq!(setting("trust"), expected("first-use", "the default"));

    let check = [
        "config",
        "check",
        "--config",
        "config.toml",
        "--soul-file",
        "alice.soul",
        "--data-dir",
        "new",
    ];
    run(folder.path(), 0, &check);
    assert!(!folder.path().join("new").exists());
    let wrong = [&check[..], &["--peers", "missing.toml", "--metrics", "0.0.0.0:1"]].concat();
    let told = text(&run(folder.path(), 2, &wrong).stdout);
    assert!(
        told.contains("cannot be read") && told.contains("metrics have no access control"),
        "{told}"
    );
}

#[test]
fn files_that_are_used_without_being_named_are_settings_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::create_dir(path.join("conf")).unwrap();
    new_soul(path, "alice");
    fs::rename(path.join("alice.soul"), path.join("conf/soul.toml")).unwrap();
    fs::write(path.join("conf/peers.toml"), "").unwrap();
    let shown = |variables: &[(&str, &std::path::Path)]| -> serde_json::Value {
        let output = nara_mesh(path)
            .args(["config", "show", "--json"])
            .env("CONFIGURATION_DIRECTORY", path.join("conf"))
            .env("XDG_DATA_HOME", path.join("data"))
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let setting = |shown: &serde_json::Value, key: &str| {
        let settings = shown["settings"].as_array().unwrap();
        let setting = settings.iter().find(|setting| setting["key"] == key).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        (text(&setting["values"][0]), text(&setting["from"]))
    };
    let in_conf = |file: &str| path.join("conf").join(file).display().to_string();
    let default = "the default".to_owned();
    let report = shown(&[]);
    assert_eq!(
        setting(&report, "soul_file"),
        (in_conf("soul.toml"), default.clone())
    );
    assert_eq!(
        setting(&report, "peers"),
        (in_conf("peers.toml"), default.clone())
    );
    let (data, from) = setting(&report, "data_dir");
    assert!(
        data.starts_with(&path.join("data/nara-mesh/").display().to_string()),
        "{data}"
    );
    assert_eq!(from, default);
    let state = path.join("state");
    let report = shown(&[("STATE_DIRECTORY", &state), ("NARA_MESH_SOUL", path)]);
    let variable = |name: &str| format!("the environment variable {name}");
    assert_eq!(
        setting(&report, "data_dir"),
        (state.display().to_string(), variable("STATE_DIRECTORY"))
    );
    // A secret.
    assert_eq!(
        setting(&report, "soul_file"),
        (String::new(), variable("NARA_MESH_SOUL"))
    );
}

/// A peers file that names one nara twice is refused by what reads it, with file and line.
#[test]
fn a_nara_under_two_names_in_the_peers_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let [alice, bob] = ["alice", "bob"].map(|name| new_soul(path, name));
    let stanza = |name: &str, of: &serde_json::Value| {
        format!(
            "[[peer]]\nname = \"{name}\"\nid = {}\nkey = {}\n",
            of["id"], of["public_key"]
        )
    };
    for (peers, line) in [
        (
            stanza("alice", &alice) + &stanza("bob", &bob) + &stanza("bobby", &bob),
            "peers.toml: line 10: the id ",
        ),
        (
            stanza("carol", &alice),
            "peers.toml: carol has the key or the id of this nara, alice",
        ),
    ] {
        fs::write(path.join("peers.toml"), peers).unwrap();
        for command in [
            &["config", "check"][..],
            &["serve", "--listen", "127.0.0.1:0"],
            &["ping", "bob", "--direct"],
        ] {
            let told = text(&run(path, 2, &[command, &ALICE].concat()).stderr);
            assert_eq!(told.matches(line).count(), 1, "{command:?}: {told}");
        }
        let told = text(
            &run(
                path,
                1,
                &[&["doctor", "--network", "loopback"][..], &ALICE].concat(),
            )
            .stdout,
        );
        assert!(told.contains(line), "{told}");
    }
    fs::write(
        path.join("peers.toml"),
        stanza("alice", &alice) + &stanza("bob", &bob),
    )
    .unwrap();
    let told = text(&run(path, 0, &[&["config", "check"][..], &ALICE].concat()).stdout);
    assert!(told.contains("2 peers"), "{told}");
}

#[test]
fn every_limit_of_the_server_is_a_setting() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let config = "[limits]\nconnections_per_address = 2\nroute_body_bytes = \"64KiB\"\nrequests_per_peer = \"5/s+9\"\nidle = \"7s\"\n";
    fs::write(path.join("config.toml"), config).unwrap();
    let args = [
        "config",
        "show",
        "--json",
        "--config",
        "config.toml",
        "--limit-connections",
        "99",
    ];
    let shown = crate::run_json(path, 0, &args);
    let setting = |key: &str| {
        let settings = shown["settings"].as_array().unwrap();
        let setting = settings.iter().find(|setting| setting["key"] == key);
        let setting = setting.unwrap_or_else(|| panic!("{key}: {shown}"));
        let text = |field: &serde_json::Value| field.as_str().unwrap().to_owned();
        (text(&setting["values"][0]), text(&setting["from"]))
    };
    assert_eq!(
        setting("limits.connections"),
        ("99".to_owned(), "the command line".to_owned())
    );
    let from = |line: usize| format!("config.toml: line {line}");
    assert_eq!(
        setting("limits.connections_per_address"),
        ("2".to_owned(), from(2))
    );
    assert_eq!(setting("limits.route_body_bytes"), ("64KiB".to_owned(), from(3)));
    assert_eq!(setting("limits.requests_per_peer"), ("5/s+9".to_owned(), from(4)));
    assert_eq!(setting("limits.idle"), ("7s".to_owned(), from(5)));
    assert_eq!(
        setting("limits.zine_events"),
        ("5000".to_owned(), "the default".to_owned())
    );
    for (wrong, told) in [
        (
            "connections = 0",
            "line 2: limits.connections: \"0\": a limit of zero refuses everything",
        ),
        (
            "connections = \"many\"",
            "limits.connections: \"many\": expected a whole number",
        ),
        ("idle = 5", "limits.idle: \"5\": expected a number and a unit"),
        (
            "requests_per_peer = \"5/m\"",
            "limits.requests_per_peer: \"5/m\": expected N/s+BURST",
        ),
        ("connection = 5", "line 2: unknown key `limits.connection`"),
        (
            "connections = \"18446744073709551615\"",
            "limits.connections: \"18446744073709551615\": expected a whole number of at most 1000000000",
        ),
        ("stash_age = 4000000", "more than 36500 days"),
        (
            "idle = \"1ns\"",
            "a limit below 10ms is too short for any request",
        ),
    ] {
        fs::write(path.join("config.toml"), format!("[limits]\n{wrong}\n")).unwrap();
        let output = run(path, 2, &["config", "show", "--config", "config.toml"]);
        assert!(text(&output.stderr).contains(told), "{}", text(&output.stderr));
    }
}
