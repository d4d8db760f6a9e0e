use std::fs;

use crate::{nara_mesh, new_soul, run, text};

#[test]
fn a_bad_value_names_where_it_came_from() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.toml"), "timeout = \"later\"\n").unwrap();
    let flag = run(folder.path(), 2, &["ping", "a", "--timeout", "soon"]);
    assert!(text(&flag.stderr).contains("error: --timeout: \"soon\""));
    let policy = run(
        folder.path(),
        2,
        &["ping", "a", "--timeout", "1s", "--tls", "yes"],
    );
    assert!(text(&policy.stderr).contains("error: --tls: \"yes\" is not a policy of TLS"));
    let file = run(folder.path(), 2, &["ping", "a", "--config", "config.toml"]);
    assert!(text(&file.stderr).contains("error: timeout in config.toml: \"later\""));
    let mut command = nara_mesh(folder.path());
    let env = command
        .args(["ping", "a"])
        .env("NARA_MESH_TIMEOUT", "never")
        .output()
        .unwrap();
    assert!(text(&env.stderr).contains("the environment variable NARA_MESH_TIMEOUT: \"never\""));
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
        // All but alice are refused, with their name.
        text(&command.output().unwrap().stderr)
    };
    assert!(name_of(&[], &[]).contains("bonded to the name file"));
    assert!(name_of(&[], &[("NARA_MESH_NAME", "env")]).contains("bonded to the name env"));
    assert!(name_of(&["--name", "flag"], &[("NARA_MESH_NAME", "env")]).contains("bonded to the name flag"));
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
