//! Runs the randomized tests with many seeds.

use crate::process;

/// The default of `--runs`.
const RUNS: &str = "1000";

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let (mut runs, mut seed) = (RUNS.to_owned(), "1".to_owned());
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let value = match arg.as_str() {
            "--runs" => &mut runs,
            "--seed" => &mut seed,
            other => {
                return Err(format!(
                    "soak does not know {other:?}; it takes --runs N and --seed N"
                ));
            }
        };
        let number = args.next().filter(|number| number.parse::<u64>().is_ok());
        number
            .ok_or_else(|| format!("{arg} takes a number"))?
            .clone_into(value);
    }
    println!("{runs} runs from seed {seed}");
    process::run(
        process::cargo()
            .args(["test", "--package", "nara-mesh", "--test", "stream", "seeded"])
            .env("NARA_SOAK_RUNS", runs)
            .env("NARA_SOAK_SEED", seed),
    )
}
