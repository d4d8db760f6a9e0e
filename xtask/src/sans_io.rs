//! Checks the dependencies of `nara-proto`, which has no clock, socket, environment or scheduler. Its own
//! code is checked by the ban list in its `clippy.toml`.

use crate::process;

/// Crates that read clocks, open sockets, or run tasks.
const BANNED: &[&str] = &[
    "async-std",
    "axum",
    "chrono",
    "futures-timer",
    "h2",
    "hyper",
    "hyper-util",
    "mio",
    "polling",
    "quinn",
    "reqwest",
    "rusqlite",
    "rustix",
    "rustls",
    "smol",
    "socket2",
    "tokio",
    "tokio-util",
    "tower",
    "ureq",
];

pub(crate) fn run() -> Result<(), String> {
    let tree = process::output(process::cargo().args([
        "tree",
        "--package",
        "nara-proto",
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]))?;
    let names: Vec<&str> = tree
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    if !names.contains(&"nara-proto") {
        return Err("cargo tree does not list nara-proto: this check is broken".to_owned());
    }
    let banned: Vec<&str> = BANNED
        .iter()
        .copied()
        .filter(|name| names.contains(name))
        .collect();
    if banned.is_empty() {
        println!(
            "sans-io: {} crates below nara-proto, none of them banned",
            names.len() - 1
        );
        return Ok(());
    }
    Err(format!(
        "nara-proto depends on {}: it must stay sans-IO",
        banned.join(", ")
    ))
}
