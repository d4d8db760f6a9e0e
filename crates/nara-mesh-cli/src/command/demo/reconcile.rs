use nara_mesh::client::ReconcileOptions;
use nara_proto::event::Service;
use nara_proto::reconcile::Scope;

use super::nara::Mesh;
use super::step::{Report, Step, StepResult, or_failed};

pub(super) const STEP: Step = Step {
    name: "reconcile",
    title: "carol finds out which of alice's events she lacks, and gets only those",
};

pub(super) async fn run(mesh: &Mesh) -> Report {
    or_failed(try_run(mesh).await)
}

async fn try_run(mesh: &Mesh) -> StepResult {
    let [alice, _, carol] = mesh.trio();
    // Services of which no ledger forgets some by its own rules: only such sets can be equal.
    let scope = Scope::all().services([Service::Social, Service::Seen]);
    let options = ReconcileOptions::default().push(true);
    let report = carol
        .client
        .reconcile(&*carol.ledger, alice.local.id(), scope.clone(), options)
        .await?;
    let check = carol
        .client
        .check_in_sync(&*carol.ledger, alice.local.id(), scope)
        .await?;
    let check_bytes = check.bytes_sent + check.bytes_received;
    let ok = report.complete
        && report.missing_here > 0
        && report.fetch.stored == report.missing_here
        && report.pushed == report.missing_there
        && check.in_sync;
    Ok(Report::new(
        ok,
        format!(
            "{} events fetched; then \"in sync?\" took {check_bytes} bytes",
            report.fetch.stored
        ),
    )
    .lines([
        format!(
            "{} round(s), {} bytes to compare: {} missing at carol, {} at alice",
            report.rounds,
            report.bytes_sent + report.bytes_received,
            report.missing_here,
            report.missing_there
        ),
        format!(
            "{} fetched and verified, {} offered back",
            report.fetch.stored, report.pushed
        ),
        format!(
            "in sync? {} ({} events compared in one round of {check_bytes} bytes)",
            if check.in_sync { "yes" } else { "no" },
            check.events_here
        ),
    ])
    .figure("rounds", report.rounds)
    .figure("compare_bytes", report.bytes_sent + report.bytes_received)
    .figure("fetched", report.fetch.stored)
    .figure("pushed", report.pushed)
    .figure("events", check.events_here)
    .figure("check_bytes", check_bytes))
}
