//! `serve`: runs a nara until interrupted.

use super::serving::{Serving, v1_address};
use crate::cli::ServeArgs;
use crate::connect::block_on_all_cores;
use crate::exit::Exit;
use crate::failure::Outcome;
use crate::printer::Printer;
use crate::settings::Settings;

pub(super) fn run(args: &ServeArgs, settings: &Settings, printer: Printer) -> Outcome {
    let nara = settings.local_nara()?;
    block_on_all_cores(async {
        let mut serving = Serving::prepare(&args.serving, settings, printer).await?;
        let Some(listen) = serving.wait_for(&args.listen).await? else {
            return Ok(Exit::Ok);
        };
        let builder = settings.builder(nara)?.listen(listen).mesh_port(listen.port());
        let v1 = v1_address(&args.serving, false, listen);
        match serving.start(builder, v1, settings).await? {
            Some(nara) => serving.run(nara, settings).await,
            None => Ok(Exit::Ok),
        }
    })
}
