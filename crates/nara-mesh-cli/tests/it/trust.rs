//! From first contact to a key change, from the operator's view.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::serve::Serving;
use crate::{ALICE, new_soul, run, run_json, text};

fn alice(folder: &Path, expected: i32, args: &[&str]) -> String {
    let output = run(folder, expected, &[args, &ALICE].concat());
    text(&output.stderr) + &text(&output.stdout)
}

fn alice_json(folder: &Path, args: &[&str]) -> Value {
    run_json(folder, 0, &[args, &["--json"], &ALICE].concat())
}

/// Returns what alice has stored about bob.
fn bob(folder: &Path) -> Value {
    let list = alice_json(folder, &["peers", "list", "--offline"]);
    assert_eq!(list["schema"], "nara-mesh/peers/1");
    let peers = list["peers"].as_array().unwrap();
    peers.iter().find(|peer| peer["name"] == "bob").unwrap().clone()
}

/// Removes key and id from a stanza: what an operator may know at first.
fn without_key(stanza: &str) -> String {
    let kept = |line: &&str| !line.starts_with("key") && !line.starts_with("id");
    stanza
        .lines()
        .filter(kept)
        .map(|line| format!("{line}\n"))
        .collect()
}

/// Starts bob, who knows alice, with this soul, and writes his address to alice's peers file. Returns his
/// stanza.
fn serve_bob(folder: &Path, soul: &str) -> (Serving, String) {
    let (serving, stanza) = Serving::start(folder, soul);
    fs::write(folder.join("peers.toml"), without_key(&stanza)).unwrap();
    (serving, stanza)
}

fn key_of(soul: &Value) -> &str {
    soul["key_id"].as_str().unwrap()
}

#[test]
fn from_first_contact_to_a_key_change() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let alices = new_soul(path, "alice");
    let old = new_soul(path, "bob");
    fs::rename(path.join("bob.soul"), path.join("old.soul")).unwrap();
    let new = new_soul(path, "bob");
    fs::rename(path.join("bob.soul"), path.join("new.soul")).unwrap();
    let known = format!("[[peer]]\nname = \"alice\"\nkey = {}\n", alices["public_key"]);
    fs::write(path.join("known.toml"), known).unwrap();
    let sync = ["sync", "bob", "--mode", "recent"];

    // The first key is pinned and stored.
    let (serving, _) = serve_bob(path, "old");
    alice(path, 4, &[&sync[..], &["--trust", "closed"]].concat());
    alice(path, 0, &sync);
    let remembered = bob(path);
    assert_eq!(remembered["key_id"], old["key_id"]);
    assert!(
        remembered["key_source"]
            .as_str()
            .unwrap()
            .starts_with("ping 127.0.0.1:")
    );
    assert!(remembered["learned_at_ms"].as_i64().unwrap() > 1_700_000_000_000);
    alice(path, 0, &[&sync[..], &["--trust", "pinned"]].concat());
    let closed = alice(path, 4, &[&sync[..], &["--trust", "closed"]].concat());
    assert!(closed.contains("closed"), "{closed}");
    serving.kill();

    // Bob has a new soul. Nothing is overwritten; the error names both keys and the command.
    let (_serving, _) = serve_bob(path, "new");
    for args in [&sync[..], &["ping", "bob"]] {
        let told = alice(path, 4, args);
        assert!(told.contains(key_of(&old)), "{told}");
        let command = format!("nara-mesh peers trust bob --key {} --replace", key_of(&new));
        assert!(told.contains(&command), "{told}");
    }
    assert_eq!(bob(path)["key_id"], old["key_id"]);
    let refused = alice(path, 4, &["peers", "trust", "bob", "--key", key_of(&new)]);
    assert!(refused.contains("--replace --soul-file alice.soul"), "{refused}");
    let trusted = alice_json(
        path,
        &["peers", "trust", "bob", "--key", key_of(&new), "--replace"],
    );
    assert_eq!(trusted["schema"], "nara-mesh/peers-trust/1");
    assert_eq!(trusted["peers"][0]["key_id"], new["key_id"]);
    assert_eq!(trusted["peers"][0]["key_source"], "operator");
    assert!(trusted["effect"].as_str().unwrap().contains("next start"));
    alice(path, 0, &[&sync[..], &["--trust", "closed"]].concat());

    let untrusted = alice_json(path, &["peers", "untrust", "bob"]);
    assert_eq!(untrusted["peers"][0]["verdict"], "untrusted");
    let told = alice(path, 4, &sync);
    assert!(
        told.contains("`nara-mesh peers trust bob --soul-file alice.soul"),
        "{told}"
    );
    alice(path, 4, &["ping", "bob"]);
    assert_eq!(bob(path)["verdict"], "untrusted");
    alice(path, 0, &["peers", "trust", "bob"]);
    alice(path, 0, &sync);

    let forgotten = alice_json(path, &["peers", "reset", "bob"]);
    assert_eq!(forgotten["peers"][0]["key_id"], Value::Null);
    assert_eq!(bob(path)["key_id"], Value::Null);
    alice(path, 4, &[&sync[..], &["--trust", "pinned"]].concat());
    alice(path, 0, &sync);
    assert_eq!(bob(path)["key_id"], new["key_id"]);
    alice_json(path, &["peers", "reset", "--all"]);
    assert_eq!(bob(path)["key_id"], Value::Null);
}

#[test]
fn what_the_peers_file_says_is_changed_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    let bobs = new_soul(path, "bob");
    let other = new_soul(path, "other");
    let stanza = format!("[[peer]]\nname = \"bob\"\nkey = {}\n", bobs["public_key"]);
    fs::write(path.join("peers.toml"), stanza).unwrap();
    let refused = alice(
        path,
        4,
        &["peers", "trust", "bob", "--key", key_of(&other), "--replace"],
    );
    assert!(
        refused.contains("peers.toml has key") && refused.contains("write key ="),
        "{refused}"
    );
    alice(path, 0, &["peers", "untrust", "bob"]);
    // Without --key, the key of the file is used.
    let trusted = alice_json(path, &["peers", "trust", "bob"]);
    assert_eq!(trusted["peers"][0]["public_key"], bobs["public_key"]);
}

#[test]
fn mistakes_of_an_operator_are_usage_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    fs::write(path.join("peers.toml"), "").unwrap();
    fs::write(path.join("config.toml"), "trust = \"maybe\"\n").unwrap();
    for (args, hint) in [
        (&["peers", "trust", "bob"][..], "--key"),
        (&["peers", "trust", "bob", "--key", "nonsense"], "id show"),
        (&["peers", "reset", "bob"], "lists the known peers"),
        (&["peers", "reset"], "NAME"),
        (
            &["peers", "--offline", "--trust", "blindly"],
            "first-use, pinned, closed",
        ),
    ] {
        let told = alice(path, 2, args);
        assert!(told.contains(hint), "{told}");
    }
    let told = text(&run(path, 2, &["peers", "untrust", "bob"]).stderr);
    assert!(told.contains("no nara is selected"), "{told}");
}

/// Returns the next lines of these events, in any order.
fn events<const N: usize>(serving: &mut Serving, kinds: [&str; N]) -> [Value; N] {
    let lines: Vec<Value> = kinds.iter().map(|_| serving.next()).collect();
    kinds.map(|kind| {
        let line = lines.iter().find(|line| line["event"] == kind);
        line.unwrap_or_else(|| panic!("no {kind} in {lines:?}")).clone()
    })
}

#[test]
fn a_serve_that_runs_takes_decisions_over_and_shows_conflicts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    let bobs = new_soul(path, "bob");
    let known = |key: &Value| format!("[[peer]]\nname = \"bob\"\nkey = {key}\n");
    fs::write(path.join("known.toml"), known(&bobs["public_key"])).unwrap();
    let (mut serving, stanza) = Serving::start(path, "alice");
    fs::write(path.join("peers.toml"), stanza).unwrap();
    let dm = |expected| {
        let as_bob = [
            "--soul-file",
            "bob.soul",
            "--data-dir",
            "bob",
            "--peers",
            "peers.toml",
        ];
        run(
            path,
            expected,
            &[&["dm", "alice", "--text", "hi"][..], &as_bob].concat(),
        );
    };
    dm(0);
    assert_eq!(serving.next()["event"], "direct_message");
    let told = alice(path, 0, &["peers", "untrust", "bob"]);
    assert!(
        told.contains("in force in the running nara") && told.contains("banned: bob"),
        "{told}"
    );
    let [decided, reloaded] = events(&mut serving, ["decided", "reloaded"]);
    assert_eq!(
        (&decided["name"], &decided["verdict"]),
        (&"bob".into(), &"untrusted".into())
    );
    assert_eq!(decided["key_id"], bobs["key_id"]);
    assert_eq!(reloaded["decided"], serde_json::json!(["bob"]));
    dm(4);
    alice(path, 0, &["peers", "trust", "bob", "--key", key_of(&bobs)]);
    events(&mut serving, ["decided", "reloaded"]);
    dm(0);
    assert_eq!(serving.next()["event"], "direct_message");
    serving.hang_up();
    assert_eq!(serving.next()["event"], "reloaded");
}

/// Returns the next line of this event.
fn until(serving: &mut Serving, event: &str) -> Value {
    loop {
        let line = serving.next();
        if line["event"] == event {
            return line;
        }
    }
}

#[test]
fn a_reload_means_the_files_and_a_ban_waits_for_none_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    let stanza = |name: &str| {
        let soul = new_soul(path, name);
        format!("[[peer]]\nname = \"{name}\"\nkey = {}\n", soul["public_key"])
    };
    let (bob, carol) = (stanza("bob"), stanza("carol"));
    // A folder of peers files, as shared by a fleet.
    fs::create_dir(path.join("known.toml")).unwrap();
    let file = |name: &str| path.join("known.toml").join(name);
    fs::write(file("bob.toml"), &bob).unwrap();
    fs::write(file("carol.toml"), &carol).unwrap();
    let none = alice(path, 3, &["reload"]);
    assert!(none.contains("no nara runs on alice"), "{none}");
    let (mut serving, stanza) = Serving::start_with(path, "alice", &["--trust", "closed"]);
    let stanza = stanza["stanza"].as_str().unwrap();
    fs::write(path.join("peers.toml"), stanza).unwrap();
    let dm = |from: &str, expected| {
        let soul = format!("{from}.soul");
        let options = ["--soul-file", &soul, "--data-dir", from, "--peers", "peers.toml"];
        run(path, expected, &[&["dm", "alice", "hi"][..], &options].concat());
    };
    dm("bob", 0);
    dm("carol", 0);
    fs::remove_file(file("bob.toml")).unwrap();
    let told = alice(path, 0, &["reload"]);
    assert!(told.contains("peers file: 1 peer in force"), "{told}");
    until(&mut serving, "reloaded");
    dm("bob", 4);
    dm("carol", 0);
    // An error in a file is reported, and does not delay a decision.
    fs::write(file("bob.toml"), "[[peer]]\nname = \"bob\"\nkey = \"AAAA\"\n").unwrap();
    let told = alice(path, 1, &["reload"]);
    assert!(
        told.contains("not in force: known.toml/bob.toml: line 3"),
        "{told}"
    );
    until(&mut serving, "reloaded");
    let told = alice(path, 0, &["peers", "untrust", "carol"]);
    assert!(told.contains("banned: carol"), "{told}");
    dm("carol", 4);
    fs::write(file("bob.toml"), &bob).unwrap();
    alice(path, 0, &["reload"]);
    dm("bob", 0);
}

#[test]
fn a_serve_that_runs_shows_a_conflict() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let alices = new_soul(path, "alice");
    let old = new_soul(path, "bob");
    fs::rename(path.join("bob.soul"), path.join("old.soul")).unwrap();
    let new = new_soul(path, "bob");
    fs::rename(path.join("bob.soul"), path.join("new.soul")).unwrap();
    let known = format!("[[peer]]\nname = \"alice\"\nkey = {}\n", alices["public_key"]);
    fs::write(path.join("known.toml"), known).unwrap();
    let (_bob, stanza) = serve_bob(path, "new");
    // Alice pins the old key, and her nara subscribes to bob.
    let known = format!("{}key = {}\n", without_key(&stanza), old["public_key"]);
    fs::write(path.join("known.toml"), known).unwrap();
    let (mut serving, _) = Serving::start(path, "alice");
    let conflict = serving.next();
    assert_eq!(conflict["event"], "key_conflict");
    assert_eq!(conflict["name"], "bob");
    assert_eq!(conflict["pinned_key_id"], old["key_id"]);
    assert_eq!(conflict["pinned_source"], "configured");
    assert_eq!(conflict["offered_key_id"], new["key_id"]);
    assert!(
        conflict["remedy"]
            .as_str()
            .unwrap()
            .contains(new["public_key"].as_str().unwrap())
    );
}

#[test]
fn a_ban_of_a_nara_whose_key_is_not_known_can_be_lifted_and_an_id_of_nobody_bans_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    let stranger = new_soul(path, "stranger");
    fs::write(path.join("peers.toml"), "").unwrap();
    alice(path, 0, &["peers", "untrust", "carol"]);
    let lifted = alice(path, 0, &["peers", "trust", "carol"]);
    assert!(lifted.contains("the ban of carol is lifted"), "{lifted}");
    // Without a ban there is no key to trust.
    let refused = alice(path, 2, &["peers", "trust", "carol"]);
    assert!(refused.contains("--key"), "{refused}");
    for nobody in [stranger["id"].as_str().unwrap(), key_of(&stranger), "127.0.0.1:9"] {
        for command in ["untrust", "trust", "reset"] {
            let refused = alice(path, 2, &["peers", command, nobody]);
            assert!(refused.contains(nobody), "{refused}");
        }
    }
    let all = alice(path, 0, &["peers", "reset", "--all"]);
    assert!(
        all.contains("carol") && !all.contains(stranger["id"].as_str().unwrap()),
        "{all}"
    );
}

#[test]
fn what_a_running_nara_found_wrong_is_what_doctor_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let alices = new_soul(path, "alice");
    new_soul(path, "bob");
    fs::rename(path.join("bob.soul"), path.join("old.soul")).unwrap();
    let new = new_soul(path, "bob");
    fs::rename(path.join("bob.soul"), path.join("new.soul")).unwrap();
    let known = format!("[[peer]]\nname = \"alice\"\nkey = {}\n", alices["public_key"]);
    fs::write(path.join("known.toml"), &known).unwrap();
    let (old, stanza) = serve_bob(path, "old");
    let address = stanza.lines().find(|line| line.starts_with("address")).unwrap();
    fs::write(path.join("known.toml"), without_key(&stanza)).unwrap();
    let (mut serving, _) = Serving::start(path, "alice");
    // Commands through the running nara.
    let by_alice = |expected, args: &[&str]| {
        let output = run(path, expected, &[args, &ALICE[..4]].concat());
        text(&output.stdout) + &text(&output.stderr)
    };
    by_alice(0, &["sync", "bob", "--mode", "recent"]);
    old.kill();
    // Another soul of bob at his address.
    fs::write(path.join("known.toml"), known).unwrap();
    let at = address.split('"').nth(1).unwrap();
    let (_new, _) = Serving::start_with(path, "new", &["--listen", at]);
    // A decision makes the nara read the file again.
    fs::write(path.join("known.toml"), without_key(&stanza)).unwrap();
    by_alice(4, &["ping", "bob"]);
    until(&mut serving, "key_conflict");
    // The report is followed by stderr.
    let report = by_alice(1, &["doctor", "--json"]);
    let mut report = serde_json::Deserializer::from_str(&report).into_iter::<Value>();
    let report = report.next().unwrap().unwrap();
    let checks = report["checks"].as_array().unwrap();
    let check = checks
        .iter()
        .find(|check| check["what"] == "key conflicts")
        .unwrap();
    assert_eq!(check["result"], "failed", "{check}");
    let command = format!("nara-mesh peers trust bob --key {} --replace", key_of(&new));
    assert!(check["next"].as_str().unwrap().contains(&command), "{check}");
    // Reported once, although bob still answers with that key.
    assert_eq!(
        check["found"].as_str().unwrap().matches("bob").count(),
        1,
        "{check}"
    );
    by_alice(0, &["peers", "trust", "bob", "--key", key_of(&new), "--replace"]);
    let after = by_alice(0, &["doctor", "--json"]);
    assert!(!after.contains(&command), "{after}");
    // After the decision she can call him at once.
    by_alice(0, &["ping", "bob"]);
}

#[test]
fn who_has_no_key_here_is_told_with_the_commands_that_show_it_and_trust_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let alices = new_soul(path, "alice");
    new_soul(path, "bob");
    let known = format!("[[peer]]\nname = \"alice\"\nkey = {}\n", alices["public_key"]);
    fs::write(path.join("known.toml"), known).unwrap();
    let (_serving, _) = serve_bob(path, "bob");
    let told = alice(path, 4, &["sync", "bob", "--mode", "recent", "--trust", "closed"]);
    assert!(
        told.contains("`nara-mesh ping bob ") && told.contains("`nara-mesh peers trust bob --key KEY "),
        "{told}"
    );
}

#[test]
fn a_ban_of_nobody_is_said_and_one_of_oneself_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    fs::write(path.join("known.toml"), "").unwrap();
    fs::write(path.join("peers.toml"), "").unwrap();
    for runs in [false, true] {
        let _serving = runs.then(|| Serving::start(path, "alice"));
        let name = if runs { "bbo" } else { "bob" };
        let told = alice(path, 0, &["peers", "untrust", name]);
        assert!(told.contains("is known; the name is banned anyway"), "{told}");
        assert!(
            told.contains(&format!(
                "`nara-mesh peers reset {name} --soul-file alice.soul --data-dir alice`"
            )),
            "{told}"
        );
        let again = alice(path, 0, &["peers", "untrust", name]);
        assert!(!again.contains("banned anyway"), "{again}");
        let refused = alice(path, 2, &["peers", "untrust", "alice"]);
        assert!(refused.contains("is this nara itself"), "{refused}");
    }
}

#[test]
fn a_ban_shows_as_such_in_ping_and_doctor_on_both_sides_with_the_command_that_lifts_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for name in ["alice", "bob"] {
        new_soul(path, name);
    }
    fs::write(path.join("known.toml"), "").unwrap();
    let (bobs, stanza) = Serving::start(path, "bob");
    fs::write(path.join("known.toml"), &stanza).unwrap();
    fs::write(path.join("peers.toml"), &stanza).unwrap();
    let (alices, alice_stanza) = Serving::start(path, "alice");
    fs::write(path.join("known.toml"), stanza + &alice_stanza).unwrap();
    bobs.hang_up();
    let as_alice = ["--soul-file", "alice.soul", "--data-dir", "alice"];
    let of_alice = |code: i32, args: &[&str]| run_json(path, code, &[args, &as_alice].concat());
    let check = |report: &Value, what: &str| {
        let checks = report["checks"].as_array().unwrap().iter();
        checks
            .clone()
            .find(|check| check["what"] == what)
            .unwrap()
            .clone()
    };
    assert_eq!(check(&of_alice(0, &["doctor", "--json"]), "bans")["result"], "ok");
    run(path, 0, &[&["peers", "untrust", "bob"][..], &as_alice].concat());

    // With the arguments that selected the nara.
    let lift = "`nara-mesh peers trust bob --soul-file alice.soul --data-dir alice`";
    let direct = ["--direct", "--peers", "peers.toml"];
    for more in [&[][..], &direct] {
        let pinged = of_alice(4, &[&["ping", "bob", "--json"][..], more].concat());
        assert!(
            pinged["peers"][0]["banned_at_ms"].as_i64().unwrap() > 0,
            "{pinged}"
        );
        let told = run(path, 4, &[&["ping", "bob"][..], &as_alice, more].concat());
        let table = text(&told.stdout);
        assert!(table.lines().last().unwrap().ends_with("banned"), "{table}");
        let told = text(&told.stderr);
        assert!(
            told.contains("the operator banned bob on 20") && told.contains(lift),
            "{told}"
        );

        let alone = ["--network", "loopback", "--port", "0"];
        let alone = if more.is_empty() { &[][..] } else { &alone };
        let report = of_alice(0, &[&["doctor", "--json"][..], more, alone].concat());
        let bans = check(&report, "bans");
        assert_eq!(bans["result"], "warning", "{report}");
        assert!(bans["found"].as_str().unwrap().contains("bob since 20"), "{bans}");
        assert!(bans["next"].as_str().unwrap().contains(lift), "{bans}");
    }

    // Bob learns that he is banned, and what to ask alice for.
    let report = run_json(
        path,
        1,
        &["doctor", "--json", "--soul-file", "bob.soul", "--data-dir", "bob"],
    );
    let acceptance = check(&report, "acceptance");
    assert_eq!(acceptance["result"], "failed", "{report}");
    assert!(
        acceptance["found"].as_str().unwrap().contains("banned you"),
        "{acceptance}"
    );
    assert!(
        acceptance["next"]
            .as_str()
            .unwrap()
            .contains("`nara-mesh peers trust bob`"),
        "{acceptance}"
    );
    alices.kill();
    bobs.kill();
}
