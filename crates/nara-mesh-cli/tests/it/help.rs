use crate::{run, run_json, text};

const COMMANDS: [&[&str]; 52] = [
    &[],
    &["backup"],
    &["checkpoints"],
    &["completions"],
    &["config"],
    &["config", "check"],
    &["config", "show"],
    &["conformance"],
    &["demo"],
    &["dm"],
    &["doctor"],
    &["events"],
    &["events", "export"],
    &["events", "import"],
    &["health"],
    &["id"],
    &["id", "new"],
    &["id", "retire"],
    &["id", "show"],
    &["id", "succeed"],
    &["ledger"],
    &["ledger", "check"],
    &["man"],
    &["outbox"],
    &["outbox", "drop"],
    &["outbox", "list"],
    &["peers"],
    &["peers", "list"],
    &["peers", "reset"],
    &["peers", "trust"],
    &["peers", "untrust"],
    &["ping"],
    &["query"],
    &["reload"],
    &["request"],
    &["restore"],
    &["schema"],
    &["serve"],
    &["sign"],
    &["stash"],
    &["stash", "drop"],
    &["stash", "get"],
    &["stash", "list"],
    &["stash", "put"],
    &["sync"],
    &["up"],
    &["verify"],
    &["watch"],
    &["world"],
    &["world", "list"],
    &["world", "send"],
    &["zine"],
];

#[test]
fn every_command_has_help_on_stdout_within_100_columns() {
    let folder = tempfile::tempdir().unwrap();
    for command in COMMANDS {
        let mut args = command.to_vec();
        args.push("--help");
        let output = run(folder.path(), 0, &args);
        let help = text(&output.stdout);
        assert!(help.contains("Usage:") && help.contains("--json"), "{help}");
        let widest = help.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= 100, "{args:?}: {widest}");
        assert!(output.stderr.is_empty());
    }
}

#[test]
fn help_that_cannot_be_written_is_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    for args in [&["--help"][..], &["help", "ping"], &["--version"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_nara-mesh"))
            .env_clear()
            .current_dir(folder.path())
            .args(args)
            .stdout(full)
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap()
            .wait_with_output()
            .unwrap();
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {told}");
        assert!(told.contains("stdout cannot be written"), "{told}");
    }
}

#[test]
fn the_help_documents_exit_codes_and_the_peers_file() {
    let folder = tempfile::tempdir().unwrap();
    let help = text(&run(folder.path(), 0, &["--help"]).stdout);
    let codes = &help[help.find("Exit codes:").unwrap()..];
    insta::assert_snapshot!(codes.trim_end(), @r"
    Exit codes:
      0  success
      1  failed
      2  invalid command line, setting or settings file
      3  a peer is unreachable, or did not answer in time
      4  not trusted: a signature does not verify, a key is not the expected one, or the peer refuses us
      5  partly done: some peers or events failed, others did not; sync --check: not in sync;
         conformance: the peer violates a MUST
    ");
    let help = text(&run(folder.path(), 0, &["peers", "--help"]).stdout);
    for word in ["[[peer]]", "name = ", "address = ", "id = ", "key = "] {
        assert!(help.contains(word), "{word}");
    }
}

#[test]
fn a_wrong_command_line_is_code_2_and_on_stderr() {
    let folder = tempfile::tempdir().unwrap();
    for args in [
        &["fly"][..],
        &[],
        &["ping"],
        &["demo", "--naras", "2"],
        &["ping", "a", "-v", "-q"],
    ] {
        let output = run(folder.path(), 2, args);
        assert!(output.stdout.is_empty());
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn completions_exist_for_every_shell() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "elvish", "fish", "nushell", "powershell", "zsh"] {
        let script = text(&run(folder.path(), 0, &["completions", shell]).stdout);
        assert!(
            script.contains("nara-mesh") && script.contains("serve"),
            "{shell}"
        );
        let json = run_json(folder.path(), 0, &["completions", shell, "--json"]);
        assert_eq!(json["schema"], "nara-mesh/completions/1");
    }
}

#[test]
fn manual_pages_are_printed_and_written() {
    let folder = tempfile::tempdir().unwrap();
    let page = text(&run(folder.path(), 0, &["man"]).stdout);
    assert!(page.contains(".TH nara-mesh 1"), "{page}");
    run(folder.path(), 0, &["man", "--out", "pages"]);
    for page in ["nara-mesh.1", "nara-mesh-id-new.1", "nara-mesh-world-send.1"] {
        let path = folder.path().join("pages").join(page);
        assert!(
            std::fs::read_to_string(path).unwrap().contains(".SH NAME"),
            "{page}"
        );
    }
}
