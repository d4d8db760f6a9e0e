//! A nara behind a bad line and a NAT: see `links` for what other lines do.

use std::path::Path;
use std::time::Duration;

use crate::kind::Kind;
use crate::links::{self, GRADES, Nat};
use crate::table::Table;

const ROW: &str = "5 % lost, 200 ms, behind a NAT";
const LIMIT: Duration = Duration::from_secs(120);

pub(super) async fn run(programs: &Path, table: &mut Table) {
    if let Err(why) = links::usable() {
        table.left_out(ROW, &why);
        return;
    }
    let Some(grade) = GRADES.iter().find(|grade| grade.name == "bad") else {
        return;
    };
    let check = async {
        let figures = links::measure(programs, grade, (Nat::Easy, Nat::Easy), Kind::Embedded, 1).await?;
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
    };
    table.check(ROW, "embedded", LIMIT, check).await;
}
