use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use nara_mesh::discovery::Discovery;
use nara_mesh::identity::LocalNara;
use nara_mesh::nara::NaraBuilder;
use nara_mesh::{Nara, defaults};
use nara_proto::identity::KeyId;
use nara_tailnet::managed::{ManagedConfig, ManagedNode};
use nara_tailnet::status::{NodeState, NodeStatus, NotReady};
use nara_tailnet::tailscaled::TailscaledNode;
use nara_tailnet::{AuthKey, MeshNode};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::finding;
use crate::cli::NetworkKind;
use crate::command::serving::Feed;
use crate::failure::{Failure, Outcome};
use crate::lines::{DaemonLine, Step};
use crate::network::{OnNetwork, not_ready};
use crate::printer::{Printer, harmless, human};
use crate::service_manager;

/// How to join a network.
#[derive(Debug)]
pub(super) struct Join {
    pub(super) kind: NetworkKind,
    /// The reason for this network.
    pub(super) why: &'static str,
    pub(super) socket: PathBuf,
    pub(super) folder: PathBuf,
    pub(super) program: PathBuf,
    pub(super) host_name: String,
    pub(super) control_url: Option<String>,
    pub(super) auth_key: Option<AuthKey>,
    pub(super) ephemeral: bool,
    /// Whether an embedded node may use a control server without TLS.
    #[cfg_attr(
        not(feature = "embedded"),
        expect(dead_code, reason = "it is about embedded nodes")
    )]
    pub(super) plain_control: bool,
    /// UDP port for direct paths of an embedded node; 0: any.
    #[cfg_attr(
        not(feature = "embedded"),
        expect(dead_code, reason = "it is about embedded nodes")
    )]
    pub(super) udp_port: u16,
    #[cfg_attr(
        not(feature = "embedded"),
        expect(dead_code, reason = "it is about embedded nodes")
    )]
    pub(super) relay_only: bool,
    #[cfg_attr(
        not(feature = "embedded"),
        expect(dead_code, reason = "it is about embedded nodes")
    )]
    pub(super) port_mapping: bool,
    pub(super) wait: Duration,
    pub(super) port: u16,
    pub(super) skip: Vec<String>,
}

/// A joined network.
#[derive(Clone, Debug)]
pub(super) struct Joined {
    kind: NetworkKind,
    /// `None`: this machine only.
    node: Option<Arc<dyn MeshNode>>,
    /// The address to serve on.
    pub(super) address: SocketAddr,
    skip: Vec<String>,
    port: u16,
}

impl Join {
    /// Joins, and reports each step.
    pub(super) async fn run(self, nara: &LocalNara, printer: Printer) -> Outcome<Joined> {
        let key_id = KeyId::from(&nara.public_key());
        let identity = format!("{}, id {}, key {key_id}", nara.name(), nara.id());
        step(
            printer,
            &identity,
            Step::Identity {
                name: nara.name().to_string(),
                id: nara.id().to_string(),
                key_id: key_id.to_string(),
            },
        )?;
        let joined = |node, address| Joined {
            kind: self.kind,
            node,
            address,
            skip: self.skip.clone(),
            port: self.port,
        };
        let node: Arc<dyn MeshNode> = match self.kind {
            NetworkKind::Loopback => {
                step(printer, "this machine only", Step::on("loopback", None, None))?;
                return Ok(joined(None, SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))));
            }
            NetworkKind::Tailscaled => {
                self.ignore_what_the_daemon_decides(printer);
                let text = format!("tailscaled at {} ({})", self.socket.display(), self.why);
                step(printer, &text, Step::on("tailscaled", Some(&self.socket), None))?;
                Arc::new(TailscaledNode::new(&self.socket))
            }
            NetworkKind::Managed => self.start_daemon(printer)?,
            NetworkKind::Embedded => self.start_embedded(printer)?,
        };
        let begun = Instant::now();
        let status = match self.wait_for(&*node, printer).await {
            Ok(status) => status,
            Err(error) => {
                leave(&*node, printer).await;
                return Err(not_ready(error));
            }
        };
        let Some(&ip) = status.addresses.first() else {
            return Err(Failure::failed("the node runs but has no address"));
        };
        tell_joined(&status, begun.elapsed(), printer)?;
        Ok(joined(Some(node), SocketAddr::new(ip, self.port)))
    }

    fn start_daemon(&self, printer: Printer) -> Outcome<Arc<dyn MeshNode>> {
        let mut config = ManagedConfig::new(&self.folder, &self.host_name);
        config.program.clone_from(&self.program);
        config.control_url.clone_from(&self.control_url);
        config.auth_key.clone_from(&self.auth_key);
        config.ephemeral = self.ephemeral;
        let node = ManagedNode::start(config).map_err(|error| {
            let folder = self.folder.display();
            Failure::failed(format!("the folder {folder} cannot be used")).caused_by(error)
        })?;
        let text = format!(
            "a managed tailscaled ({}), socket {}, host name {}",
            self.why,
            node.socket().display(),
            self.host_name
        );
        let on = Step::on("managed", Some(node.socket()), Some(&self.host_name));
        step(printer, &text, on)?;
        Ok(Arc::new(node))
    }

    #[cfg(feature = "embedded")]
    fn start_embedded(&self, printer: Printer) -> Outcome<Arc<dyn MeshNode>> {
        use nara_tailnet::embedded::{EmbeddedNode, EmbeddedSettings, TAILSCALE_CONTROL};

        let control_url = self.control_url.as_deref().unwrap_or(TAILSCALE_CONTROL);
        let url = control_url
            .parse()
            .map_err(|error| Failure::usage(format!("--control-url: {control_url:?}: {error}")))?;
        let mut settings = EmbeddedSettings::new(&self.host_name, url);
        settings.auth_key.clone_from(&self.auth_key);
        settings.ephemeral = self.ephemeral;
        // An ephemeral node has a new key each time.
        settings.key_file = (!self.ephemeral).then(|| self.folder.with_file_name("node.key"));
        settings.direct = !self.relay_only;
        settings.udp_port = self.udp_port;
        settings.port_mapping = self.port_mapping;
        if self.plain_control {
            settings.danger_allow_plain_control();
        }
        let node = EmbeddedNode::start(settings)
            .map_err(|error| Failure::usage(error.to_string()).caused_by(error))?;
        let text = format!(
            "a node in this process ({}), host name {}",
            self.why, self.host_name
        );
        step(printer, &text, Step::on("embedded", None, Some(&self.host_name)))?;
        Ok(Arc::new(node))
    }

    #[cfg(not(feature = "embedded"))]
    fn start_embedded(&self, _: Printer) -> Outcome<Arc<dyn MeshNode>> {
        Err(Failure::usage("--network embedded is not in this build")
            .hint("build the program with its feature `embedded`, or use --network managed"))
    }

    /// Warns about options that the daemon of the machine ignores: its operator has configured it.
    fn ignore_what_the_daemon_decides(&self, printer: Printer) {
        let ignored = [
            (self.auth_key.is_some(), "the auth key"),
            (self.control_url.is_some(), "the control URL"),
            (self.ephemeral, "--ephemeral"),
        ];
        for (given, what) in ignored {
            if given {
                printer.warn(format_args!(
                    "{what} is not used: the tailscaled of this machine joins with `tailscale up`; --network managed runs \
                     a separate one"
                ));
            }
        }
    }

    /// Waits until the node is ready, and reports what it waits for.
    async fn wait_for(&self, node: &dyn MeshNode, printer: Printer) -> Result<NodeStatus, NotReady> {
        service_manager::starting(self.wait);
        let mut status = node.watch_status();
        let mut ready = pin!(node.ready(self.wait));
        loop {
            tokio::select! {
                outcome = ready.as_mut() => return outcome,
                Ok(()) = status.changed() => {
                    if let NodeState::Waiting(reason) = &status.borrow_and_update().state {
                        service_manager::status(format_args!("joining the tailnet: {reason}"));
                        printer.note(format_args!("  waiting    {}", harmless(&reason.to_string())));
                    }
                }
            }
        }
    }
}

impl Joined {
    /// Makes the nara serve on the network and find naras there.
    pub(super) fn network(&self, builder: NaraBuilder, feed: &Feed) -> NaraBuilder {
        let builder = builder.listen(self.address).mesh_port(self.port);
        let Some(node) = self.node.clone() else {
            return builder;
        };
        let feed = feed.clone();
        let (port, skip) = (self.port, self.skip.clone());
        builder
            .network(node.clone(), node)
            .configure_discovery(move |discovery| {
                let mut ports = vec![port, defaults::MESH_PORT, defaults::LEGACY_MESH_PORT];
                let mut seen = BTreeSet::new();
                ports.retain(|port| seen.insert(*port));
                skip.iter().fold(discovery.ports(ports), Discovery::skip_prefix)
            })
            .on_found(move |found| finding::tell(&found, &feed))
    }

    /// Describes the network for the local API.
    pub(super) fn on_network(&self) -> OnNetwork {
        OnNetwork {
            kind: match self.kind {
                NetworkKind::Embedded => "embedded",
                NetworkKind::Loopback => "loopback",
                NetworkKind::Managed => "managed",
                NetworkKind::Tailscaled => "tailscaled",
            },
            node: self.node.clone(),
        }
    }

    /// Prints where this nara serves, and that discovery has started.
    pub(super) fn tell_serving(&self, nara: &Nara, printer: Printer) -> Outcome<()> {
        let address = nara.address();
        let text = address.map_or_else(String::new, |address| address.to_string());
        let address = address.map(|address| address.to_string());
        step(printer, &text, Step::Serving { address })?;
        if self.node.is_none() {
            return Ok(());
        }
        step(
            printer,
            "looking for naras among the nodes of the tailnet",
            Step::Discovery,
        )
    }

    /// Reports when the node loses its network, until the task is dropped.
    pub(super) fn tell_status(&self, feed: Feed) -> Option<AbortOnDropHandle<()>> {
        let status = self.node.as_ref()?.watch_status();
        Some(AbortOnDropHandle::new(tokio::spawn(finding::tell_status(
            status, feed,
        ))))
    }

    /// Leaves the network.
    pub(super) async fn leave(&self, printer: Printer) {
        if let Some(node) = &self.node {
            leave(&**node, printer).await;
        }
    }
}

async fn leave(node: &dyn MeshNode, printer: Printer) {
    if let Err(error) = node.leave().await {
        printer.warn(format_args!(
            "cannot log the node out of the control server: {error}"
        ));
    }
}

fn tell_joined(status: &NodeStatus, after: Duration, printer: Printer) -> Outcome<()> {
    let name = status.granted_name.as_deref().unwrap_or("without a name");
    let addresses: Vec<String> = status.addresses.iter().map(ToString::to_string).collect();
    let control = status.control_url.as_deref().unwrap_or("unknown");
    let text = format!(
        "as {}, {}, control server {}, after {}",
        harmless(name),
        addresses.join(", "),
        harmless(control),
        human(after)
    );
    step(
        printer,
        &text,
        Step::Joined {
            granted_name: status.granted_name.clone(),
            addresses,
            control_url: status.control_url.clone(),
            version: status.version.clone(),
        },
    )
}

/// Prints a completed step.
fn step(printer: Printer, text: &str, step: Step) -> Outcome<()> {
    printer.note(format_args!("  {:<10} {text}", step.word()));
    printer.json_line(DaemonLine::from(step))
}
