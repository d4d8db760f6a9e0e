use crate::{run, run_json, text};

const STEPS: [&str; 7] = ["ping", "sync", "dm", "postcard", "gossip", "v1", "refuse"];

#[test]
fn every_step_of_the_demo_does_what_it_should_in_an_empty_environment() {
    let folder = tempfile::tempdir().unwrap();
    let demo = run_json(
        folder.path(),
        0,
        &["demo", "--json", "--naras", "4", "--events", "700"],
    );
    assert_eq!(demo["schema"], "nara-mesh/demo/1");
    assert_eq!(demo["ok"], true);
    let steps = demo["steps"].as_array().unwrap();
    let names: Vec<&str> = steps.iter().map(|step| step["name"].as_str().unwrap()).collect();
    assert_eq!(names, STEPS);
    for step in steps {
        assert_eq!(step["ok"], true, "{step}");
        assert!(
            step["figures"]
                .as_object()
                .is_some_and(|figures| !figures.is_empty()),
            "{step}"
        );
    }
    let figure = |step: usize, name: &str| steps[step]["figures"][name].clone();
    assert_eq!(figure(0, "answered"), 12);
    assert_eq!(figure(1, "verified"), 700);
    assert_eq!(figure(3, "hops"), 4);
    assert_eq!(figure(4, "naras"), 4);
    assert_eq!(
        (figure(5, "caught_up"), figure(5, "burst")),
        (3000.into(), 20.into())
    );
    // The demo leaves no files in its working directory.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn the_demo_is_readable_in_100_columns_and_plain_in_a_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), 0, &["demo", "--naras", "3", "--events", "100"]);
    let shown = text(&output.stdout);
    assert!(!shown.contains('\x1b'));
    for line in shown.lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
    assert!(shown.contains("Every step passed."));
    assert!(shown.contains("the v1 signature"), "{shown}");
    assert_eq!(text(&output.stderr), "");
}
