//! Requests and answers of `/events/sync`, and the pager that processes a peer's answers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nara_fuzz::{nara, read_twice};
use nara_proto::reconcile::FetchRequest;
use nara_proto::sync::{EventFilter, Pager, SyncRequest, SyncResponse};

fuzz_target!(|json: &[u8]| {
    if let Some(request) = read_twice::<SyncRequest>(json) {
        let _ = (request.mode(), request.filter());
    }
    let _ = read_twice::<FetchRequest>(json);
    if let Some(response) = read_twice::<SyncResponse>(json) {
        let _ = response.verify(&nara("alice").public_key());
        let mut pager = Pager::new(EventFilter::default(), 2);
        for _ in 0..4 {
            if pager.next_request().is_none() || pager.accept(response.clone()).is_err() {
                break;
            }
            let cursor = pager.cursor();
            assert_eq!(cursor.to_string().parse().as_ref(), Ok(cursor));
        }
    }
});
