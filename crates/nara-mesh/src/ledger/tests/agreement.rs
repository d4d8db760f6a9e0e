use proptest::prelude::*;

use nara_proto::event::EventTrust;
use nara_proto::reconcile::Scope;

use super::retention::without_strangers;
use super::*;
use crate::ledger::CheckedEvent;

/// An operation applied to both ledgers.
#[derive(Clone, Debug)]
enum Operation {
    Insert(Vec<CheckedEvent>, Option<NaraName>),
    Page(EventFilter, i64, usize),
    PageAll(EventFilter, usize),
    Recent(EventFilter, usize),
    Slice(EventFilter, Slice),
    Sample(EventFilter, usize, u64),
    Since(i64, usize),
    Checkpoints(usize, usize),
}

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["alice", "bob", "carla", "stranger", "r2d2"]).prop_map(str::to_owned)
}

fn event() -> impl Strategy<Value = SyncEvent> {
    (-3_i64..12, 0..8, name(), name()).prop_map(|(ts, kind, actor, target)| match kind {
        0 => ping(ts, &actor, &target),
        1 => seen(ts, &actor, &target),
        2 => social(ts, &actor, &target),
        3 => hey_there(ts, &actor),
        4 => checkpoint(ts, &target, 1_768_774_450 + ts),
        5 => observation(ts, &actor, &target, "restart"),
        6 => observation(ts, &actor, &target, "first-seen"),
        _ => observation(ts, &actor, &target, "status-change"),
    })
}

/// Returns an event with its actor as emitter or without an emitter, mostly verified.
fn checked() -> impl Strategy<Value = CheckedEvent> {
    (event(), any::<bool>(), prop::bool::weighted(0.7)).prop_map(|(mut event, signed, verified)| {
        if signed {
            event.emitter = event.actor().to_owned();
        }
        let trust = if verified {
            EventTrust::Verified
        } else {
            EventTrust::Unsigned
        };
        CheckedEvent::new(event, trust)
    })
}

fn filter() -> impl Strategy<Value = EventFilter> {
    let service = prop::sample::select(vec!["ping", "seen", "observation", "checkpoint", "nope"]);
    let services = prop::collection::vec(service.prop_map(str::to_owned), 0..3);
    let subjects = prop::collection::vec(prop_oneof![4 => name(), 1 => Just(String::new())], 0..3);
    (services, subjects).prop_map(|(services, subjects)| EventFilter { services, subjects })
}

fn operation() -> impl Strategy<Value = Operation> {
    let slice =
        (-2_i64..8, 0_usize..3, 1_usize..4, 0_usize..9).prop_map(|(since, index, total, limit)| Slice {
            since: UnixNanos::new(since),
            slice_index: index % total,
            slice_total: total,
            limit: ReadLimit::events(limit),
        });
    prop_oneof![
        8 => (prop::collection::vec(checked(), 0..12), prop::option::of(name())).prop_map(|(events, teller)| {
            Operation::Insert(events, teller.map(|teller| teller.parse().unwrap()))
        }),
        1 => (filter(), -4_i64..12, 0_usize..9).prop_map(|(f, ts, n)| Operation::Page(f, ts, n)),
        1 => (filter(), 1_usize..9).prop_map(|(f, n)| Operation::PageAll(f, n)),
        1 => (filter(), 0_usize..9).prop_map(|(f, n)| Operation::Recent(f, n)),
        1 => (filter(), slice).prop_map(|(f, slice)| Operation::Slice(f, slice)),
        1 => (filter(), 0_usize..20, any::<u64>()).prop_map(|(f, n, seed)| Operation::Sample(f, n, seed)),
        1 => (-4_i64..12, 0_usize..9).prop_map(|(ts, n)| Operation::Since(ts, n)),
        1 => (0_usize..9, 0_usize..9).prop_map(|(n, offset)| Operation::Checkpoints(n, offset)),
    ]
}

/// Performs an operation and returns its result as text.
async fn perform(ledger: &dyn Ledger, operation: Operation) -> String {
    match operation {
        Operation::Insert(events, teller) => format!("{:?}", ledger.insert(events, teller).await.unwrap()),
        Operation::Page(filter, ts, limit) => {
            let after = Cursor::after_time(UnixNanos::new(ts));
            format!(
                "{:?}",
                ledger
                    .page(filter, after, ReadLimit::events(limit))
                    .await
                    .unwrap()
            )
        }
        Operation::PageAll(filter, size) => page_all(ledger, filter, size).await,
        Operation::Recent(filter, limit) => format!(
            "{:?}",
            ledger.recent(filter, ReadLimit::events(limit)).await.unwrap()
        ),
        Operation::Slice(filter, slice) => format!("{:?}", ledger.slice(filter, slice).await.unwrap()),
        Operation::Sample(filter, size, seed) => {
            let sample = Sample {
                size,
                bytes: usize::MAX,
                responder: "bob".to_owned(),
                now: UnixNanos::new(20),
                seed,
            };
            format!("{:?}", ledger.sample(filter, sample).await.unwrap())
        }
        Operation::Since(ts, limit) => {
            format!(
                "{:?}",
                ledger
                    .since(UnixNanos::new(ts), ReadLimit::events(limit))
                    .await
                    .unwrap()
            )
        }
        Operation::Checkpoints(limit, offset) => {
            format!(
                "{:?}",
                ledger
                    .checkpoints(ReadLimit::events(limit), offset)
                    .await
                    .unwrap()
            )
        }
    }
}

/// Fetches all pages and checks that they are exactly the matching events, in order.
async fn page_all(ledger: &dyn Ledger, filter: EventFilter, size: usize) -> String {
    let (mut paged, mut after) = (Vec::new(), Cursor::START);
    loop {
        let page = page(ledger, filter.clone(), after, ReadLimit::events(size)).await;
        let Some(last) = page.last() else { break };
        after = Cursor::behind(last);
        paged.extend(page);
    }
    let mut wanted = all(ledger).await;
    wanted.retain(|event| filter.matches(event));
    assert_eq!(paged, wanted);
    format!("{paged:?}")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn both_ledgers_give_the_same_answers(
        operations in prop::collection::vec(operation(), 1..24),
        max_events in prop::sample::select(vec![5, 20, usize::MAX]),
        observations in 0_usize..5,
    ) {
        let policy = RetentionPolicy::default()
            .max_events(max_events)
            .pings_per_target(2)
            .observations_per_pair(observations);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (memory, sqlite) = without_strangers(policy);
            for operation in operations {
                let context = format!("{operation:?}");
                let expected = perform(&memory, operation.clone()).await;
                assert_eq!(perform(&sqlite, operation).await, expected, "{context}");
                assert_eq!(
                    sqlite.items(Scope::all()).await.unwrap().ids().collect::<Vec<_>>(),
                    memory.items(Scope::all()).await.unwrap().ids().collect::<Vec<_>>()
                );
                assert_eq!(sqlite.count().await.unwrap(), memory.count().await.unwrap());
                assert_eq!(sqlite.services().await.unwrap(), memory.services().await.unwrap());
            }
            assert_eq!(all(&sqlite).await, all(&memory).await);
        });
    }
}
