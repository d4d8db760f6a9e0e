//! The machine's limit: hyper on both ends without our code, plain and over TLS 1.3 with client certificates.
//!
//! Ratios to this limit are comparable between machines; absolute figures are not.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::mesh::Error;

/// Bytes of a request body, as in our own small exchange.
const ASKED: usize = 110;
/// Bytes of an answer.
const ANSWERED: usize = 420;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// The connections to one server: one per concurrent round trip.
#[derive(Clone)]
pub(crate) struct Bare {
    idle: Arc<Mutex<Vec<SendRequest<Full<Bytes>>>>>,
}

impl Bare {
    pub(crate) async fn start(connections: u64, tls: bool) -> Result<Self, Error> {
        let (server, client) = configs()?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        tokio::spawn(serve(listener, tls.then(|| TlsAcceptor::from(server))));
        let connector = tls.then(|| TlsConnector::from(client));
        let mut idle = Vec::new();
        for _ in 0..connections {
            idle.push(connect(address, connector.as_ref()).await?);
        }
        Ok(Self {
            idle: Arc::new(Mutex::new(idle)),
        })
    }

    pub(crate) async fn once(self) -> Result<(), Error> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let mut connection = idle().pop().ok_or("more round trips than connections")?;
        let request = Request::post("/events/sync")
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from_static(&[b'5'; ASKED])))?;
        connection.ready().await?;
        let answer = connection.send_request(request).await?;
        let body = answer.into_body().collect().await?.to_bytes();
        idle().push(connection);
        if body.len() != ANSWERED {
            return Err("a different answer than was sent".into());
        }
        Ok(())
    }
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>) -> Result<(), Error> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let tls = tls.clone();
        tokio::spawn(async move {
            let stream: Box<dyn Stream> = match tls {
                Some(tls) => Box::new(tls.accept(stream).await?),
                None => Box::new(stream),
            };
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service_fn(answer))
                .await?;
            Ok::<_, Error>(())
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    request.into_body().collect().await?;
    Ok(Response::new(Full::new(Bytes::from_static(&[b'7'; ANSWERED]))))
}

async fn connect(address: SocketAddr, tls: Option<&TlsConnector>) -> Result<SendRequest<Full<Bytes>>, Error> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let stream: Box<dyn Stream> = match tls {
        Some(tls) => Box::new(tls.connect(ServerName::try_from("localhost")?, stream).await?),
        None => Box::new(stream),
    };
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Returns configurations with the same self-signed certificate at both ends, and client authentication.
fn configs() -> Result<(Arc<ServerConfig>, Arc<ClientConfig>), Error> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?.self_signed(&key)?;
    let chain = vec![certificate.der().clone()];
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone())?;
    let roots = Arc::new(roots);
    let key = || PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.clone(), key())?;
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key())?;
    Ok((Arc::new(server), Arc::new(client)))
}
