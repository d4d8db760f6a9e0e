//! The subset of UPnP's Internet Gateway Device that a port mapping needs: a search, one document and three calls.
//!
//! The few relevant elements are searched in the text of an answer: no nesting, no entity expansion, no references to
//! other hosts.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use url::{Host, Url};

use super::route::Route;

/// The port of the search service, and the timeout of a search.
const PORT: u16 = 1900;
const SEARCH: Duration = Duration::from_millis(800);
/// The number of attempts: a search is one datagram, which may be lost.
const SEARCHES: usize = 2;
/// The maximum size in bytes of an answer to a search, and of a document.
const ANSWER_MAX: usize = 2048;
const DOCUMENT_MAX: usize = 256 * 1024;
/// The description of the mapping in the router's list.
const DESCRIPTION: &str = "nara-mesh";
/// The service types that map ports.
const KINDS: [&str; 3] = [
    "urn:schemas-upnp-org:service:WANIPConnection:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
];

/// The port mapping service of a gateway.
#[derive(Clone, Debug)]
pub(super) struct Service {
    kind: &'static str,
    control: Url,
    gateway: Ipv4Addr,
}

impl Service {
    /// Searches for the service at the gateway's address. A multicast search could be answered by any machine.
    pub(super) async fn find(route: Route) -> io::Result<Self> {
        let location = search(route).await?;
        let request = Request::get(path(&location));
        let document = ask(&location, route.gateway, request, String::new()).await?;
        Self::in_document(&document, &location, route.gateway)
    }

    fn in_document(document: &str, location: &Url, gateway: Ipv4Addr) -> io::Result<Self> {
        let base = element(document, "URLBase").and_then(|(base, _)| Url::parse(base.trim()).ok());
        let mut rest = document;
        while let Some((service, behind)) = element(rest, "service") {
            rest = behind;
            let field = |name| element(service, name).map(|(text, _)| text.trim());
            let kind = KINDS.into_iter().find(|kind| field("serviceType") == Some(kind));
            let (Some(kind), Some(control)) = (kind, field("controlURL")) else {
                continue;
            };
            let control = control.replace("&amp;", "&");
            let control = base.as_ref().unwrap_or(location).join(&control);
            let control = control.map_err(io::Error::other)?;
            check_host(&control, gateway)?;
            return Ok(Self {
                kind,
                control,
                gateway,
            });
        }
        Err(io::Error::other("the document has no service for port mappings"))
    }

    pub(super) async fn external_ip(&self) -> io::Result<IpAddr> {
        let answer = self.call("GetExternalIPAddress", &[]).await?;
        let ip = element(&answer, "NewExternalIPAddress").and_then(|(ip, _)| ip.trim().parse().ok());
        ip.ok_or_else(|| io::Error::other("the answer has no external address"))
    }

    /// Maps an external port to ours, or renews the mapping.
    pub(super) async fn add(&self, external: u16, own: SocketAddr, seconds: u32) -> io::Result<()> {
        let arguments = [
            ("NewRemoteHost", ""),
            ("NewExternalPort", &external.to_string()),
            ("NewProtocol", "UDP"),
            ("NewInternalPort", &own.port().to_string()),
            ("NewInternalClient", &own.ip().to_string()),
            ("NewEnabled", "1"),
            ("NewPortMappingDescription", DESCRIPTION),
            ("NewLeaseDuration", &seconds.to_string()),
        ];
        self.call("AddPortMapping", &arguments).await.map(drop)
    }

    pub(super) async fn remove(&self, external: u16) -> io::Result<()> {
        let arguments = [
            ("NewRemoteHost", ""),
            ("NewExternalPort", &external.to_string()),
            ("NewProtocol", "UDP"),
        ];
        self.call("DeletePortMapping", &arguments).await.map(drop)
    }

    async fn call(&self, action: &str, arguments: &[(&str, &str)]) -> io::Result<String> {
        let kind = self.kind;
        let arguments = arguments.iter();
        let arguments: String = arguments
            .map(|(name, value)| format!("<{name}>{value}</{name}>"))
            .collect();
        let body = format!(
            "<?xml version=\"1.0\"?>\r\n\
             <s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body>\
             <u:{action} xmlns:u=\"{kind}\">{arguments}</u:{action}></s:Body></s:Envelope>\r\n"
        );
        let request = Request::post(path(&self.control))
            .header("SOAPAction", format!("\"{kind}#{action}\""))
            .header(header::CONTENT_TYPE, "text/xml; charset=\"utf-8\"");
        ask(&self.control, self.gateway, request, body).await
    }
}

/// Returns the URL of the gateway's description.
async fn search(route: Route) -> io::Result<Url> {
    let socket = UdpSocket::bind((route.own, 0)).await?;
    let mut buffer = [0; ANSWER_MAX];
    for _ in 0..SEARCHES {
        for kind in KINDS {
            let question = format!(
                "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: {kind}\r\n\r\n"
            );
            socket.send_to(question.as_bytes(), (route.gateway, PORT)).await?;
        }
        let answered = timeout(SEARCH, async {
            loop {
                let (len, from) = socket.recv_from(&mut buffer).await?;
                let answer = String::from_utf8_lossy(buffer.get(..len).unwrap_or_default());
                let location =
                    location(&answer).filter(|location| check_host(location, route.gateway).is_ok());
                if let Some(location) = location.filter(|_| from.ip() == route.gateway) {
                    return io::Result::Ok(location);
                }
            }
        });
        if let Ok(found) = answered.await {
            return found;
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

fn location(answer: &str) -> Option<Url> {
    let headers = answer.lines().filter_map(|line| line.split_once(':'));
    let mut locations = headers.filter(|(name, _)| name.trim().eq_ignore_ascii_case("location"));
    Url::parse(locations.next()?.1.trim()).ok()
}

/// Checks that a URL points to the gateway itself.
fn check_host(url: &Url, gateway: Ipv4Addr) -> io::Result<()> {
    if url.scheme() == "http" && url.host() == Some(Host::Ipv4(gateway)) {
        return Ok(());
    }
    Err(io::Error::other("the URL does not point to the gateway"))
}

fn path(url: &Url) -> String {
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    format!("{}{query}", url.path())
}

/// Sends a request and returns the body of the answer. Has no timeout of its own.
async fn ask(
    url: &Url,
    gateway: Ipv4Addr,
    request: http::request::Builder,
    body: String,
) -> io::Result<String> {
    let port = url.port_or_known_default().unwrap_or(80);
    let stream = TcpStream::connect((gateway, port)).await?;
    let request = request
        .header(header::HOST, format!("{gateway}:{port}"))
        .header(header::CONNECTION, "close")
        .body(Full::new(Bytes::from(body)))
        .map_err(io::Error::other)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let asked = async {
        let answer = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), DOCUMENT_MAX).collect();
        let body = body.await.map_err(io::Error::other)?.to_bytes();
        if status != StatusCode::OK {
            return Err(io::Error::other(format!("the gateway answered {status}")));
        }
        Ok(String::from_utf8_lossy(&body).into_owned())
    };
    tokio::pin!(asked);
    tokio::pin!(connection);
    tokio::select! {
        answer = &mut asked => answer,
        // The connection may have closed after the answer was read.
        _ = &mut connection => asked.await,
    }
}

/// Returns the content of the first element of this name, and the text after it.
fn element<'a>(text: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    let mut rest = text;
    loop {
        rest = rest.split_once('<')?.1;
        let Some(behind) = rest.strip_prefix(name) else {
            continue;
        };
        if behind.starts_with(|next: char| next == '>' || next.is_ascii_whitespace()) {
            let content = behind.split_once('>')?.1;
            return content.split_once(&format!("</{name}>"));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

    fn found(document: &str) -> io::Result<Service> {
        Service::in_document(
            document,
            &"http://192.168.1.1:5000/root.xml".parse().unwrap(),
            GATEWAY,
        )
    }

    fn service(kind: &str, control: &str) -> String {
        format!("<service>\n<serviceType> {kind} </serviceType><controlURL>{control}</controlURL></service>")
    }

    #[test]
    fn the_service_that_maps_ports_is_found_among_others() {
        let document = [
            "<root xmlns=\"urn:x\"><device><serviceList>",
            &service("urn:schemas-upnp-org:service:Layer3Forwarding:1", "/no"),
            "</serviceList>",
            &service(KINDS[1], "/ctl?a=1&amp;b=2"),
        ];
        let service = found(&document.concat()).unwrap();
        assert_eq!(service.control.as_str(), "http://192.168.1.1:5000/ctl?a=1&b=2");
        assert_eq!(service.kind, KINDS[1]);
    }

    #[test]
    fn a_document_with_urls_of_other_hosts_is_refused() {
        for control in [
            "http://192.168.1.2/ctl",
            "//192.168.1.2/ctl",
            "https://192.168.1.1/",
            "file:///x",
        ] {
            assert!(found(&service(KINDS[0], control)).is_err(), "{control}");
        }
        let base = "<URLBase>http://192.168.1.2:80/</URLBase>".to_owned();
        assert!(found(&(base + &service(KINDS[0], "/ctl"))).is_err());
    }

    #[test]
    fn elements_may_have_attributes_and_names_with_a_common_prefix() {
        let text = "<serviceId>1</serviceId><service a=\"b\"><x>2</x></service>3";
        assert_eq!(element(text, "service"), Some(("<x>2</x>", "3")));
        assert_eq!(element("<service>", "service"), None);
        assert_eq!(element("<service", "service"), None);
    }

    #[test]
    fn an_answer_to_a_search_contains_a_location() {
        let answer = "HTTP/1.1 200 OK\r\nST: x:y\r\nLocation: http://192.168.1.1:5000/root.xml\r\n\r\n";
        let found = location(answer).unwrap();
        assert!(check_host(&found, GATEWAY).is_ok() && check_host(&found, Ipv4Addr::LOCALHOST).is_err());
        assert_eq!(location("HTTP/1.1 200 OK\r\nLocation: nowhere\r\n"), None);
    }

    proptest! {
        #[test]
        fn malformed_documents_are_refused(text in "([<>/a ]|</?service>|<serviceType>|</serviceType>|<controlURL>){0,40}") {
            prop_assert!(found(&text).is_err());
            location(&text);
        }
    }
}
