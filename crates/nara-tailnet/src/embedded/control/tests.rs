//! Sessions with a control server in memory.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::*;
use crate::embedded::device::Device;
use crate::embedded::direct::Direct;
use crate::embedded::driver::Driver;
use crate::embedded::relay::Relays;
use crate::embedded::stack::Stack;
use crate::embedded::tap::Tap;

const AUTHORIZED: &str = r#"{"MachineAuthorized":true}"#;
const EXPIRED: &str = r#"{"NodeKeyExpired":true}"#;

fn control() -> Control {
    let settings = EmbeddedSettings::new("a", "https://control.invalid".parse().unwrap());
    let (keys, tls) = (Keys::open(None).unwrap(), Tls::new(&settings).unwrap());
    let node = keys.state().node_keys.clone();
    let device = Arc::new(Device::default());
    let tap = Arc::new(Tap::new(Arc::clone(&device), settings.user_timeout));
    let driver = Arc::new(Driver::new(&node, Arc::clone(&device), Arc::clone(&tap), None));
    let (stack, _) = Stack::new(&device, Arc::clone(&driver), Arc::clone(&tap));
    let direct = Direct::none(node.public);
    let addresses = watch::Sender::default().subscribe();
    let relays = Relays::new(
        Arc::<Driver>::clone(&driver),
        tls.clone(),
        0,
        node,
        addresses,
        driver.sleeps(),
    );
    let parts = Parts {
        driver,
        tap,
        relays,
        stack,
        direct,
        view: watch::Sender::default(),
    };
    Control::new(settings, tls, keys, parts, watch::Sender::default())
}

/// Runs a session with a server that gives these answers to registrations, and ends after this map. Returns the reason
/// for the end.
async fn session(control: &mut Control, registrations: &[&'static str], map: &str) -> ControlError {
    let answers = Arc::new(Mutex::new(VecDeque::from(registrations.to_vec())));
    let (waiting, map) = (Arc::clone(&answers), map.to_owned());
    let service = service_fn(move |request: Request<Incoming>| {
        let mut body = Vec::new();
        if request.uri().path() == "/machine/register" {
            body.extend(waiting.lock().unwrap().pop_front().unwrap().bytes());
        } else {
            body.extend(u32::try_from(map.len()).unwrap().to_le_bytes());
            body.extend(map.bytes());
        }
        async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(body)))) }
    });
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    tokio::spawn(server.serve_connection(TokioIo::new(theirs), service));
    let connection = ts_http_util::http2::connect(ours).await.unwrap();
    let (_leave, mut leaving) = mpsc::channel(1);
    let Err(error) = control.follow(&connection, &mut leaving).await else {
        panic!("the node left")
    };
    assert!(answers.lock().unwrap().is_empty(), "{error:?}");
    error
}

/// Returns a map whose only node is ours.
fn map(control: &Control, expiry: &str, extra: &str) -> String {
    let key = control.keys.state().node_keys.public;
    format!(r#"{{"Node":{{"ID":1,"Key":"{key}","KeyExpiry":"{expiry}"}}{extra}}}"#)
}

#[tokio::test]
async fn a_wrong_clock_of_this_machine_expires_no_key() {
    let mut control = control();
    let first = control.keys.state().node_keys.public;
    let time = r#","ControlTime":"2026-01-01T00:00:01Z""#;
    let with_time = map(&control, "2026-01-01T00:00:02Z", time);
    for registrations in [&[AUTHORIZED][..], &[]] {
        let end = session(&mut control, registrations, &with_time).await;
        assert!(matches!(end, ControlError::Ended(_)), "{end:?}");
    }
    // If the server does not report its time, it is asked once.
    control.netmap.time = None;
    let without_time = map(&control, "1970-01-02T00:00:00Z", "");
    let end = session(&mut control, &[], &without_time).await;
    assert!(matches!(end, ControlError::KeyExpired), "{end:?}");
    for registrations in [&[AUTHORIZED][..], &[]] {
        let end = session(&mut control, registrations, &without_time).await;
        assert!(matches!(end, ControlError::Ended(_)), "{end:?}");
    }
    assert_eq!(control.keys.state().node_keys.public, first);
}

#[tokio::test]
async fn a_key_is_replaced_only_if_the_control_server_refuses_it() {
    let mut control = control();
    let first = control.keys.state().node_keys.public;
    let time = r#","ControlTime":"2030-01-01T00:00:00Z""#;
    for expiry in ["2029-01-01T00:00:00Z", "2029-02-02T00:00:00Z"] {
        let outdated = map(&control, expiry, time);
        let end = session(&mut control, &[AUTHORIZED], &outdated).await;
        assert!(matches!(end, ControlError::KeyExpired), "{end:?}");
        assert_eq!(control.keys.state().node_keys.public, first);
    }
    session(&mut control, &[EXPIRED, AUTHORIZED], "{}").await;
    assert_ne!(control.keys.state().node_keys.public, first);
}
