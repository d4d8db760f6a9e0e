//! `request --stream`: streams bodies of any size.

use std::error::Error;
use std::io;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::Response;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Body, Frame};
use nara_mesh::client::Verification;
use nara_proto::trace_context::TraceParent;
use tokio::sync::mpsc;
use tower::ServiceExt as _;

use super::{build, exit_of, proof, reader, show_head};
use crate::cli::RequestArgs;
use crate::connect;
use crate::failure::{Failure, Outcome};
use crate::printer::{Printer, stdout_bytes};
use crate::running;
use crate::settings::Settings;

/// Bytes per read of a body.
const PIECE: usize = 64 << 10;

/// Pieces that are read ahead.
const AHEAD: usize = 4;

pub(super) fn run(args: &RequestArgs, settings: &Settings, printer: Printer) -> Outcome {
    if printer.is_json() {
        return Err(Failure::usage("--json and --stream exclude each other").hint("omit one of them"));
    }
    match running::find(&args.running, settings)? {
        Some(nara) => connect::block_on(async {
            let (request, trace) = build(args, body(args)?)?;
            let mut answer = nara.stream_peer(&args.peer.to_string(), request).await?;
            let verification = proof::told(answer.headers_mut());
            show(args, answer, &verification, trace, printer).await
        }),
        None => {
            let client = connect::client(running::instead(&args.running, settings, None)?, settings)?;
            connect::block_on_keeping(&client, settings, async {
                let (request, trace) = build(args, body(args)?)?;
                let mut answer = client.peer(&args.peer).service().oneshot(request).await?;
                let verification = answer.extensions_mut().remove::<Verification>();
                show(args, answer, &verification.unwrap_or_default(), trace, printer).await
            })
        }
    }
}

/// Returns the request body, which is read while it is sent.
fn body(args: &RequestArgs) -> Outcome<impl Body<Data = Bytes, Error = io::Error> + Send + Unpin + use<>> {
    let mut reader = reader(args.data.as_deref().unwrap_or_default())?;
    let (pieces, read) = mpsc::channel(AHEAD);
    std::thread::spawn(move || {
        loop {
            let mut piece = vec![0; PIECE];
            let piece = match reader.read(&mut piece) {
                Ok(0) => return,
                Ok(length) => {
                    piece.truncate(length);
                    Ok(Frame::data(Bytes::from(piece)))
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let is_end = piece.is_err();
            // The receiver is dropped if the request has failed.
            if pieces.blocking_send(piece).is_err() || is_end {
                return;
            }
        }
    });
    let read = futures_util::stream::unfold(read, async |mut read| {
        let piece = read.recv().await?;
        Some((piece, read))
    });
    Ok(StreamBody::new(read.boxed()))
}

/// Prints an answer as it arrives.
async fn show<B>(
    args: &RequestArgs,
    answer: Response<B>,
    verification: &Verification,
    trace: TraceParent,
    printer: Printer,
) -> Outcome
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Error + Send + Sync + 'static,
{
    let (head, mut body) = answer.into_parts();
    show_head(args, &head, verification, trace, printer)?;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Failure::failed("the answer broke off, or its signature does not match: do not use the output")
                .caused_by(error)
        })?;
        if let Some(data) = frame.data_ref() {
            stdout_bytes(data)?;
        }
    }
    Ok(exit_of(head.status))
}
