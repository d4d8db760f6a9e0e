//! A nara behind a bad line and NATs: see `links` for what other lines do.

use std::path::Path;
use std::time::Duration;

use crate::bench::line::LineFigures;
use crate::kind::Kind;
use crate::links::{self, GRADES, Nat, Place};
use crate::table::Table;

const LIMIT: Duration = Duration::from_secs(120);

pub(super) async fn run(programs: &Path, table: &mut Table) {
    let row = "5 % lost, 200 ms, behind a NAT";
    match links::usable() {
        Ok(()) => check(programs, table, row, "bad", Place::apart(Nat::Easy, Nat::Easy)).await,
        Err(why) => table.left_out(row, &why),
    }
    let row = "behind hard NATs, of which one maps a port";
    match links::mapping_usable() {
        Ok(()) => {
            check(
                programs,
                table,
                row,
                "home",
                Place::apart(Nat::Hard, Nat::Mapping),
            )
            .await
        }
        Err(why) => table.left_out(row, &why),
    }
}

async fn check(programs: &Path, table: &mut Table, row: &str, grade: &str, place: Place) {
    let Some(grade) = GRADES.iter().find(|known| known.name == grade) else {
        return;
    };
    let measured = async {
        let figures = links::measure(programs, grade, place, Kind::Embedded, 1).await?;
        verdict(&figures)
    };
    table.check(row, "embedded", LIMIT, measured).await;
}

fn verdict(figures: &LineFigures) -> Result<String, String> {
    let direct = figures
        .direct_ms
        .ok_or("the nodes do not get past two NATs that let them")?;
    figures.down_mb_s.ok_or("a transfer to the nara does not end")?;
    figures.up_mb_s.ok_or("a transfer from the nara does not end")?;
    Ok(format!(
        "direct after {:.1} s, requests {:.0} ms",
        direct / 1e3,
        figures.p50_ms
    ))
}
