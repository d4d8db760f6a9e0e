//! `token`: manages access to the local API on loopback.

use jiff::Timestamp;
use nara_local_api::model::{NewToken, Rights, Token};
use serde::Serialize;
use utoipa::ToSchema;

use crate::cli::{RunningArgs, TokenCommand, TokenNewArgs, TokenRevokeArgs, TokenRights};
use crate::connect::block_on;
use crate::exit::Exit;
use crate::failure::Outcome;
use crate::printer::{Printer, render, table};
use crate::running;
use crate::settings::Settings;

pub(super) fn run(
    command: &TokenCommand,
    settings: &Settings,
    printer: impl Fn(&'static str) -> Printer,
) -> Outcome {
    match command {
        TokenCommand::New(args) => new(args, settings, printer("token-new")),
        TokenCommand::List(args) => list(args, settings, printer("token-list")),
        TokenCommand::Revoke(args) => revoke(args, settings, printer("token-revoke")),
    }
}

fn new(args: &TokenNewArgs, settings: &Settings, printer: Printer) -> Outcome {
    let nara = running::required(&args.running, settings)?;
    let wanted = NewToken {
        name: args.token_name.clone(),
        rights: match args.rights {
            TokenRights::Read => Rights::Read,
            TokenRights::Messages => Rights::Messages,
            TokenRights::All => Rights::All,
        },
    };
    let made = block_on(async { Ok(nara.make_token(&wanted).await?) })?;
    printer.note(format_args!(
        "The token {} (rights: {}) is shown only once:",
        made.name,
        made.rights.as_str()
    ));
    printer.line(&made.token)?;
    printer.json(made)?;
    Ok(Exit::Ok)
}

fn list(args: &RunningArgs, settings: &Settings, printer: Printer) -> Outcome {
    let nara = running::required(args, settings)?;
    let list = block_on(async { Ok(nara.tokens().await?) })?;
    if list.addresses.is_empty() {
        printer.note("The local API does not listen on loopback (`serve --api-listen 127.0.0.1:PORT`).");
    } else {
        printer.note(format_args!(
            "The local API listens on {}.",
            list.addresses.join(", ")
        ));
    }
    let mut shown = table(["NAME", "RIGHTS", "MADE"]);
    for Token {
        name,
        rights,
        created_at_ms,
    } in &list.tokens
    {
        let made = created_at_ms.and_then(|at| Timestamp::from_millisecond(at).ok());
        let made = made.map_or_else(
            || "in the file api.token".to_owned(),
            |at| at.strftime("%F %T UTC").to_string(),
        );
        shown.add_row([name.as_str(), rights.as_str(), &made]);
    }
    printer.line(render(&shown))?;
    printer.json(list)?;
    Ok(Exit::Ok)
}

/// A revoked token.
#[derive(Serialize, ToSchema)]
pub(super) struct Revoked {
    name: String,
}

fn revoke(args: &TokenRevokeArgs, settings: &Settings, printer: Printer) -> Outcome {
    let nara = running::required(&args.running, settings)?;
    let name = args.token.clone();
    block_on(async { Ok(nara.revoke_token(&name).await?) })?;
    printer.line(format_args!("the token {name} is no longer accepted"))?;
    printer.json(Revoked { name })?;
    Ok(Exit::Ok)
}
