use super::*;

fn with(naras: usize, seed: u64, change: impl FnOnce(&mut Plan)) -> Report {
    let mut plan = Plan::new(naras, seed);
    change(&mut plan);
    run(&plan)
}

#[test]
fn every_nara_gets_every_event() {
    for (naras, seeds) in [(2, 0..5), (8, 0..10), (100, 0..10), (1_000, 0..1)] {
        for seed in seeds {
            let report = run(&Plan::new(naras, seed));
            assert_eq!(report.missing, 0, "{naras} naras, seed {seed}");
            assert!(report.connected, "{naras} naras, seed {seed}");
            for event in &report.events {
                assert_eq!(event.delays.len(), naras);
                assert!(
                    event.time_to_all() < Duration::from_secs(1),
                    "{naras} naras, seed {seed}"
                );
            }
        }
    }
}

#[test]
fn naras_that_are_down_keep_no_event_from_the_others() {
    for seed in 0..10 {
        let report = with(100, seed, |plan| plan.dead = 0.05);
        assert_eq!(report.live, 95);
        assert_eq!(report.missing, 0, "seed {seed}");
        assert!(report.connected, "seed {seed}");
    }
}

#[test]
fn naras_that_were_cut_off_catch_up() {
    for seed in 0..10 {
        let report = with(100, seed, |plan| {
            plan.cut = 0.2;
            plan.events = 60;
        });
        assert_eq!(report.live, 100);
        assert_eq!(report.missing, 0, "seed {seed}");
        assert!(report.connected, "seed {seed}");
    }
}

#[test]
fn without_streams_zines_alone_eventually_reach_all_naras() {
    let report = with(30, 1, |plan| {
        plan.config = GossipConfig::with_degree(0);
        plan.event_pause = Duration::from_secs(180);
    });
    assert_eq!((report.streams, report.missing), (0, 0));
}

#[test]
fn a_nara_receives_an_event_at_most_once_from_each_neighbour() {
    let report = run(&Plan::new(100, 3));
    let degree = GossipConfig::default().degree;
    assert_eq!(report.streams, 100 * degree);
    assert!(report.redundancy() > 1.0, "{}", report.redundancy());
    // Fewer, because an event does not go back to the peer that sent it.
    assert!(report.redundancy() < degree as f64, "{}", report.redundancy());
}

#[test]
fn the_same_plan_gives_the_same_report() {
    let plan = Plan {
        dead: 0.05,
        cut: 0.05,
        ..Plan::new(60, 9)
    };
    assert_eq!(run(&plan), run(&plan));
    assert_ne!(
        run(&plan),
        run(&Plan {
            seed: 10,
            ..plan.clone()
        })
    );
}
