//! Tests against fake routers, each on its own loopback address. Time is paused: it advances only when the runtime is
//! idle.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::timeout;

use super::*;

/// A guard against tests that hang.
const LONG: Duration = Duration::from_secs(3 * 3600);
const PORT: u16 = 41641;
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
const EXTERNAL: u16 = 5000;

/// The behaviour of a fake router.
#[derive(Clone, Debug)]
struct Behaviour {
    pcp: bool,
    nat_pmp: bool,
    outside: Ipv4Addr,
    seconds: u32,
    /// The index of a byte to invert in PCP answers.
    corrupted: Option<usize>,
}

const COOPERATIVE: Behaviour = Behaviour {
    pcp: true,
    nat_pmp: true,
    outside: OUTSIDE,
    seconds: 1200,
    corrupted: None,
};

struct Router {
    address: Ipv4Addr,
    behaviour: Arc<Mutex<Behaviour>>,
    /// The received requests of PCP and NAT-PMP.
    asked: Arc<Mutex<Vec<Vec<u8>>>>,
    _task: JoinSet<()>,
}

impl Router {
    async fn start(behaviour: Behaviour) -> Self {
        let socket = free(crab_nat::GATEWAY_PORT).await;
        let IpAddr::V4(address) = socket.local_addr().unwrap().ip() else {
            unreachable!()
        };
        let behaviour = Arc::new(Mutex::new(behaviour));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (kept, log) = (Arc::clone(&behaviour), Arc::clone(&asked));
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut buffer = [0; 1500];
            loop {
                let (len, from) = socket.recv_from(&mut buffer).await.unwrap();
                let request = &buffer[..len];
                log.lock().unwrap().push(request.to_vec());
                let answer = kept.lock().unwrap().answer(request);
                if let Some(answer) = answer {
                    socket.send_to(&answer, from).await.unwrap();
                }
            }
        });
        Self {
            address,
            behaviour,
            asked,
            _task: task,
        }
    }

    fn route(&self) -> Route {
        Route {
            gateway: self.address,
            own: Ipv4Addr::LOCALHOST,
        }
    }

    fn set(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.behaviour.lock().unwrap());
    }

    fn mapped(&self, protocol: &'static str) -> PortMapping {
        PortMapping::Mapped {
            router: self.address.into(),
            protocol,
            external: (OUTSIDE, EXTERNAL).into(),
        }
    }

    /// Returns the lifetimes requested by PCP, oldest first.
    fn lifetimes(&self) -> Vec<u32> {
        let asked = self.asked.lock().unwrap();
        let pcp = asked.iter().filter(|request| request[0] == 2);
        pcp.map(|request| u32::from_be_bytes(request[4..8].try_into().unwrap()))
            .collect()
    }

    async fn ask(&self) -> Result<Lease, lease::Refusals> {
        Lease::ask(self.route(), NonZeroU16::new(PORT).unwrap()).await
    }
}

impl Behaviour {
    fn answer(&self, request: &[u8]) -> Option<Vec<u8>> {
        match request {
            [2, 1, ..] if self.pcp => {
                let mut answer = request.to_vec();
                answer[1] |= 0x80;
                answer[2..24].fill(0);
                if request[4..8] != [0; 4] {
                    answer[4..8].copy_from_slice(&self.seconds.to_be_bytes());
                }
                answer[42..44].copy_from_slice(&EXTERNAL.to_be_bytes());
                answer[44..60].copy_from_slice(&self.outside.to_ipv6_mapped().octets());
                if let Some(at) = self.corrupted {
                    answer[at] ^= 0xff;
                }
                Some(answer)
            }
            // The answer of a router that supports only NAT-PMP.
            [2, ..] if self.nat_pmp => Some([0, 0x81, 0, 1, 0, 0, 0, 9].to_vec()),
            [0, 0] if self.nat_pmp => {
                Some([&[0, 0x80, 0, 0, 0, 0, 0, 9], &self.outside.octets()[..]].concat())
            }
            [0, 1, _, _, own @ .., _, _, life_1, life_2, life_3, life_4] if self.nat_pmp => {
                let is_release = [*life_1, *life_2, *life_3, *life_4] == [0; 4];
                let (port, seconds) = if is_release {
                    (0, 0)
                } else {
                    (EXTERNAL, self.seconds)
                };
                let head = [0, 0x81, 0, 0, 0, 0, 0, 9, own[0], own[1]];
                Some([&head[..], &port.to_be_bytes(), &seconds.to_be_bytes()].concat())
            }
            _ => None,
        }
    }
}

/// Binds a socket with this port on an unused loopback address.
async fn free(port: u16) -> UdpSocket {
    loop {
        let address = Ipv4Addr::new(127, fastrand::u8(1..), fastrand::u8(..), fastrand::u8(1..255));
        match UdpSocket::bind((address, port)).await {
            Ok(socket) => return socket,
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse),
        }
    }
}

/// A mapper with injected routes and an observable state.
struct Bench {
    routes: watch::Sender<Option<Route>>,
    state: watch::Receiver<PortMapping>,
    release: Release,
    _task: JoinSet<()>,
}

impl Bench {
    fn start(route: Option<Route>) -> Self {
        let state = watch::Sender::default();
        let watched = state.subscribe();
        let (mapper, release) = Mapper::new(NonZeroU16::new(PORT).unwrap(), state);
        let routes = watch::Sender::new(route);
        let mut task = JoinSet::new();
        task.spawn(mapper.follow(routes.subscribe(), watch::Sender::default().subscribe()));
        Self {
            routes,
            state: watched,
            release,
            _task: task,
        }
    }

    async fn until(&mut self, wanted: impl Fn(&PortMapping) -> bool) -> PortMapping {
        let reached = timeout(LONG, self.state.wait_for(|state| wanted(state))).await;
        reached.expect("the state is not reached").unwrap().clone()
    }

    async fn until_mapped(&mut self) -> PortMapping {
        self.until(|state| matches!(state, PortMapping::Mapped { .. }))
            .await
    }

    async fn until_refused(&mut self) -> String {
        match self
            .until(|state| matches!(state, PortMapping::Refused { .. }))
            .await
        {
            PortMapping::Refused { detail, .. } => detail,
            _ => unreachable!(),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_router_maps_the_port_by_pcp() {
    let router = Router::start(COOPERATIVE).await;
    let mut bench = Bench::start(Some(router.route()));
    assert_eq!(bench.until_mapped().await, router.mapped("PCP"));
    let asked = router.asked.lock().unwrap();
    assert_eq!(asked.len(), 1, "one packet is enough");
    assert_eq!(asked[0][36], 17, "UDP");
    assert_eq!(asked[0][40..42], PORT.to_be_bytes());
    assert_eq!(asked[0][8..24], Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets());
}

#[tokio::test(start_paused = true)]
async fn an_older_router_maps_the_port_by_nat_pmp() {
    let router = Router::start(Behaviour {
        pcp: false,
        ..COOPERATIVE
    })
    .await;
    let mut bench = Bench::start(Some(router.route()));
    assert_eq!(bench.until_mapped().await, router.mapped("NAT-PMP"));
    bench.release.release().await;
    let asked = router.asked.lock().unwrap();
    let [.., last] = &asked[..] else { unreachable!() };
    assert_eq!(last[..2], [0, 1]);
    assert_eq!(last[4..6], PORT.to_be_bytes());
    assert_eq!(last[6..12], [0; 6], "released");
}

#[tokio::test(start_paused = true)]
async fn a_request_to_a_router_that_maps_nothing_is_repeated_later() {
    let router = Router::start(Behaviour {
        pcp: false,
        nat_pmp: false,
        ..COOPERATIVE
    })
    .await;
    let begin = Instant::now();
    let mut bench = Bench::start(Some(router.route()));
    assert_eq!(bench.until_refused().await, "no answer to PCP, NAT-PMP and UPnP");
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    let sent = router.asked.lock().unwrap().len();
    assert!(sent <= 6, "{sent} packets");
    router.set(|behaviour| behaviour.pcp = true);
    assert_eq!(bench.until_mapped().await, router.mapped("PCP"));
    assert!(begin.elapsed() < 2 * ASK_AGAIN, "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_mapping_is_renewed_after_half_of_its_lifetime_with_the_same_nonce() {
    let router = Router::start(COOPERATIVE).await;
    let mut bench = Bench::start(Some(router.route()));
    bench.until_mapped().await;
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(*bench.state.borrow(), router.mapped("PCP"));
    let asked = router.asked.lock().unwrap();
    assert!((6..=8).contains(&asked.len()), "{} times in an hour", asked.len());
    assert!(asked.iter().all(|request| request[24..36] == asked[0][24..36]));
    assert_eq!(asked[1][42..44], EXTERNAL.to_be_bytes(), "the same port");
}

#[tokio::test(start_paused = true)]
async fn a_mapping_that_is_not_renewed_is_reported_until_it_expires() {
    let router = Router::start(COOPERATIVE).await;
    let mut bench = Bench::start(Some(router.route()));
    bench.until_mapped().await;
    let begin = Instant::now();
    router.set(|behaviour| (behaviour.pcp, behaviour.nat_pmp) = (false, false));
    bench
        .until(|state| !matches!(state, PortMapping::Mapped { .. }))
        .await;
    let told = begin.elapsed().as_secs();
    assert!((1150..=1201).contains(&told), "{told} s");
    bench.until_refused().await;
    assert!(
        router.asked.lock().unwrap().len() < 60,
        "the router gets too many requests"
    );
}

#[tokio::test(start_paused = true)]
async fn a_mapping_with_a_non_public_address_is_released_and_not_reported() {
    for outside in [
        [10, 0, 0, 7].into(),
        Ipv4Addr::LOCALHOST,
        [100, 64, 0, 9].into(),
        [224, 0, 0, 1].into(),
        Ipv4Addr::UNSPECIFIED,
    ] {
        let router = Router::start(Behaviour {
            outside,
            ..COOPERATIVE
        })
        .await;
        let mut bench = Bench::start(Some(router.route()));
        let detail = bench.until_refused().await;
        let expected = format!("the external address {outside} is not public");
        assert_eq!(detail, format!("PCP: {expected}; NAT-PMP: {expected}"));
        assert_eq!(router.lifetimes(), [1200, 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_lifetime_is_refused_and_a_long_one_is_capped() {
    for seconds in [0, 1, 59] {
        let router = Router::start(Behaviour {
            seconds,
            ..COOPERATIVE
        })
        .await;
        let refusals = router.ask().await.unwrap_err().to_string();
        assert!(refusals.contains("less than a minute"), "{refusals}");
    }
    let router = Router::start(Behaviour {
        seconds: u32::MAX,
        ..COOPERATIVE
    })
    .await;
    let lease = router.ask().await.unwrap();
    assert!(lease.ends <= Instant::now() + Duration::from_secs(1200));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_does_not_match_the_request_is_rejected() {
    // Version, operation, result, nonce, protocol, and our port.
    for corrupted in [0, 1, 3, 24, 35, 36, 40] {
        let router = Router::start(Behaviour {
            nat_pmp: false,
            corrupted: Some(corrupted),
            ..COOPERATIVE
        })
        .await;
        assert!(router.ask().await.is_err(), "byte {corrupted}");
    }
}

#[tokio::test(start_paused = true)]
async fn nonsense_from_the_router_does_no_harm() {
    let socket = free(crab_nat::GATEWAY_PORT).await;
    let IpAddr::V4(gateway) = socket.local_addr().unwrap().ip() else {
        unreachable!()
    };
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut buffer = [0; 1500];
        loop {
            let (len, from) = socket.recv_from(&mut buffer).await.unwrap();
            let mut answer: Vec<u8> = (0..fastrand::usize(..1400)).map(|_| fastrand::u8(..)).collect();
            if let [version, operation, .., _] = &mut answer[..] {
                (*version, *operation) = (buffer[0], buffer[1] | 0x80);
            }
            answer.truncate(if fastrand::bool() { len } else { usize::MAX });
            socket.send_to(&answer, from).await.unwrap();
        }
    });
    let route = Route {
        gateway,
        own: Ipv4Addr::LOCALHOST,
    };
    for _ in 0..50 {
        assert!(Lease::ask(route, NonZeroU16::new(PORT).unwrap()).await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_router_can_answer() {
    let silent = free(crab_nat::GATEWAY_PORT).await;
    let stranger = free(crab_nat::GATEWAY_PORT).await;
    let IpAddr::V4(gateway) = silent.local_addr().unwrap().ip() else {
        unreachable!()
    };
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut buffer = [0; 1500];
        loop {
            // The stranger knows the request and its source.
            let (len, from) = silent.recv_from(&mut buffer).await.unwrap();
            if let Some(answer) = COOPERATIVE.answer(&buffer[..len]) {
                stranger.send_to(&answer, from).await.unwrap();
            }
        }
    });
    let route = Route {
        gateway,
        own: Ipv4Addr::LOCALHOST,
    };
    let refusals = Lease::ask(route, NonZeroU16::new(PORT).unwrap())
        .await
        .unwrap_err();
    assert_eq!(refusals.to_string(), "no answer to PCP, NAT-PMP and UPnP");
}

#[tokio::test(start_paused = true)]
async fn a_mapping_is_released_at_the_end_in_bounded_time() {
    let router = Router::start(COOPERATIVE).await;
    let mut bench = Bench::start(Some(router.route()));
    bench.until_mapped().await;
    bench.release.release().await;
    assert_eq!(router.lifetimes(), [1200, 0]);
    assert_eq!(*bench.state.borrow(), PortMapping::Off);
    bench.release.release().await;

    let mut bench = Bench::start(Some(router.route()));
    bench.until_mapped().await;
    router.set(|behaviour| (behaviour.pcp, behaviour.nat_pmp) = (false, false));
    let begin = Instant::now();
    bench.release.release().await;
    assert!(begin.elapsed() <= Duration::from_secs(1), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_new_router_gets_a_request_at_once_and_the_old_mapping_is_released() {
    let (first, second) = (Router::start(COOPERATIVE).await, Router::start(COOPERATIVE).await);
    let mut bench = Bench::start(None);
    bench.until(|state| *state == PortMapping::NoRouter).await;
    let begin = Instant::now();
    bench.routes.send_replace(Some(first.route()));
    bench.until(|state| *state == first.mapped("PCP")).await;
    bench.routes.send_replace(Some(second.route()));
    bench.until(|state| *state == second.mapped("PCP")).await;
    assert_eq!(first.lifetimes(), [1200, 0]);
    bench.routes.send_replace(None);
    bench.until(|state| *state == PortMapping::NoRouter).await;
    assert_eq!(second.lifetimes(), [1200, 0]);
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
}

/// Starts a router that supports only UPnP. `location` overrides the address of its documents.
async fn upnp_router(location: Option<SocketAddr>) -> (Route, Arc<Mutex<Vec<String>>>, JoinSet<()>) {
    let search = free(1900).await;
    let IpAddr::V4(gateway) = search.local_addr().unwrap().ip() else {
        unreachable!()
    };
    let pages = TcpListener::bind((gateway, 0)).await.unwrap();
    let location = location.unwrap_or_else(|| pages.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut buffer = [0; 1500];
        loop {
            let (_, from) = search.recv_from(&mut buffer).await.unwrap();
            let answer = format!("HTTP/1.1 200 OK\r\nLOCATION: http://{location}/device\r\n\r\n");
            search.send_to(answer.as_bytes(), from).await.unwrap();
        }
    });
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = pages.accept().await.unwrap();
            let mut request = String::new();
            while !is_whole(&request) {
                let mut buffer = [0; 4096];
                let len = stream.read(&mut buffer).await.unwrap();
                request.push_str(std::str::from_utf8(&buffer[..len]).unwrap());
            }
            let body = page(&request);
            log.lock().unwrap().push(request);
            let head = format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all((head + &body).as_bytes()).await.unwrap();
        }
    });
    let own = Ipv4Addr::LOCALHOST;
    (Route { gateway, own }, asked, tasks)
}

fn is_whole(request: &str) -> bool {
    let Some((head, body)) = request.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    body.len() >= length.map_or(0, |length| length.parse().unwrap())
}

fn page(request: &str) -> String {
    const SERVICE: &str = "urn:schemas-upnp-org:service:WANIPConnection:1";
    let response = |name: &str, body: &str| {
        format!(
            "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body><u:{name}Response \
             xmlns:u=\"{SERVICE}\">{body}</u:{name}Response></s:Body></s:Envelope>"
        )
    };
    match request {
        _ if request.starts_with("GET /device ") => format!(
            "<root><device><serviceList><service><serviceType>{SERVICE}</serviceType><controlURL>/control</controlURL>\
             </service></serviceList></device></root>"
        ),
        _ if request.contains("#GetExternalIPAddress") => response(
            "GetExternalIPAddress",
            &format!("<NewExternalIPAddress>{OUTSIDE}</NewExternalIPAddress>"),
        ),
        _ if request.contains("#AddPortMapping") => response("AddPortMapping", ""),
        _ if request.contains("#DeletePortMapping") => response("DeletePortMapping", ""),
        _ => String::new(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_router_maps_the_port_by_upnp() {
    let (route, asked, _tasks) = upnp_router(None).await;
    let mut bench = Bench::start(Some(route));
    let PortMapping::Mapped {
        external, protocol, ..
    } = bench.until_mapped().await
    else {
        unreachable!()
    };
    assert_eq!((protocol, external), ("UPnP", (OUTSIDE, PORT).into()));
    let mappings = || {
        let asked = asked.lock().unwrap();
        let mappings = asked
            .iter()
            .filter(|request| request.contains("<NewInternalPort>"));
        mappings.cloned().collect::<Vec<_>>()
    };
    let first = mappings().remove(0);
    for argument in [
        format!("<NewInternalPort>{PORT}</NewInternalPort>"),
        format!("<NewExternalPort>{}</NewExternalPort>", external.port()),
        "<NewInternalClient>127.0.0.1</NewInternalClient>".to_owned(),
        "<NewLeaseDuration>1200</NewLeaseDuration>".to_owned(),
        "<NewProtocol>UDP</NewProtocol>".to_owned(),
    ] {
        assert!(first.contains(&argument), "{argument} in {first}");
    }
    sleep(Duration::from_secs(700)).await;
    assert!(mappings().len() >= 2, "renewed");
    bench.release.release().await;
    let asked = asked.lock().unwrap();
    let [.., last] = &asked[..] else { unreachable!() };
    assert!(last.contains("#DeletePortMapping"), "{last}");
    assert!(last.contains(&format!("<NewExternalPort>{}<", external.port())));
}

#[tokio::test(start_paused = true)]
async fn a_search_does_not_follow_a_location_on_another_host() {
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (route, _, _tasks) = upnp_router(Some(other.local_addr().unwrap())).await;
    let refusals = Lease::ask(route, NonZeroU16::new(PORT).unwrap())
        .await
        .unwrap_err();
    assert_eq!(refusals.to_string(), "no answer to PCP, NAT-PMP and UPnP");
    let visited = timeout(Duration::ZERO, other.accept()).await;
    assert!(visited.is_err(), "{visited:?}");
}
