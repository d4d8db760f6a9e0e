use crate::time::{UnixMillis, UnixSeconds};
use crate::wire_struct;

wire_struct! {
    /// Payload of service `social`: teasing and gossip (docs/protocol/v1.md, section 8.4).
    pub struct SocialPayload {
        /// One of `tease`, `observed`, `gossip`, `observation`, `service`.
        pub kind: String = "type",
        /// The actor.
        pub actor: String = "actor", omit,
        /// The actor's nara id; not part of the content.
        pub actor_id: String = "actor_id", omit,
        /// The target of the action.
        pub target: String = "target", omit,
        /// The target's nara id; not part of the content.
        pub target_id: String = "target_id", omit,
        /// The reason, for example `comeback` or `nice-number`.
        pub reason: String = "reason", omit,
        /// The witness.
        pub witness: String = "witness", omit,
    }
}

wire_struct! {
    /// Payload of service `ping`: a measured round trip.
    pub struct PingPayload {
        /// The nara that measured.
        pub observer: String = "observer", omit,
        /// The observer's nara id; not part of the content.
        pub observer_id: String = "observer_id", omit,
        /// The nara that answered.
        pub target: String = "target", omit,
        /// The target's nara id; not part of the content.
        pub target_id: String = "target_id", omit,
        /// The round-trip time in **milliseconds**, with fractions. Only its first decimal is covered by id
        /// and signature.
        pub rtt: f64 = "rtt",
    }
}

wire_struct! {
    /// Payload of service `observation`: the state in which a nara observed another.
    pub struct ObservationPayload {
        /// The observer.
        pub observer: String = "observer", omit,
        /// The observer's nara id; not part of the content.
        pub observer_id: String = "observer_id", omit,
        /// The observed nara.
        pub subject: String = "subject", omit,
        /// The subject's nara id; not part of the content.
        pub subject_id: String = "subject_id", omit,
        /// One of `restart`, `first-seen`, `status-change`.
        pub kind: String = "type",
        /// 1 to 3; 3 is critical.
        pub importance: i64 = "importance",
        /// Whether it was reconstructed from older data.
        pub is_backfill: bool = "is_backfill", omit,
        /// When the subject was born, in **seconds**.
        pub start_time: UnixSeconds = "start_time", omit,
        /// How often the subject has restarted.
        pub restart_num: i64 = "restart_num", omit,
        /// Its last restart, in **seconds**.
        pub last_restart: UnixSeconds = "last_restart", omit,
        /// `ONLINE`, `OFFLINE` or `MISSING`.
        pub online_state: String = "online_state", omit,
        /// The cluster of the subject.
        pub cluster_name: String = "cluster_name", omit,
        /// How long the observer had been up, in seconds.
        pub observer_uptime: u64 = "observer_uptime", omit,
    }
}

wire_struct! {
    /// Payload of service `hey-there`: a nara introduces itself. The keys are capitalised on the wire.
    pub struct HeyTherePayload {
        /// The name.
        pub from: String = "From",
        /// The public key, base64.
        pub public_key: String = "PublicKey",
        /// The mesh address.
        pub mesh_ip: String = "MeshIP",
        /// The nara id; not part of the content.
        pub id: String = "ID",
        /// A signature over the content itself, without hashing; usually empty, and not verified by v1 peers.
        pub signature: String = "Signature",
    }
}

wire_struct! {
    /// Payload of service `chau`: a nara says goodbye. The keys are capitalised on the wire.
    pub struct ChauPayload {
        /// The name.
        pub from: String = "From",
        /// The public key, base64.
        pub public_key: String = "PublicKey",
        /// The nara id; not part of the content.
        pub id: String = "ID",
        /// As in [`HeyTherePayload`].
        pub signature: String = "Signature",
    }
}

wire_struct! {
    /// Payload of service `seen`: a nara came across another.
    pub struct SeenPayload {
        /// The observer.
        pub observer: String = "observer", omit,
        /// The observer's nara id; not part of the content.
        pub observer_id: String = "observer_id", omit,
        /// The nara that was seen.
        pub subject: String = "subject", omit,
        /// The subject's nara id; not part of the content.
        pub subject_id: String = "subject_id", omit,
        /// The occasion: `zine`, `mesh`, `ping` or `sync`.
        pub via: String = "via",
    }
}

wire_struct! {
    /// Payload of service `succession`: a key of a nara is replaced or retired. It contains its own proof: see
    /// [`Succession`](crate::succession::Succession).
    pub struct SuccessionPayload {
        /// The name of the nara.
        pub name: String = "name",
        /// The key that is replaced, base64.
        pub old_key: String = "old_key",
        /// The key that replaces it, base64; empty if the nara retires.
        pub new_key: String = "new_key", omit,
        /// When the statement was made, in **milliseconds**.
        pub at: UnixMillis = "at",
        /// `rotation` or `retirement`.
        pub reason: String = "reason",
        /// The signature of the old key, base64.
        pub old_sig: String = "old_sig",
        /// The signature of the new key, base64; empty if the nara retires.
        pub new_sig: String = "new_sig", omit,
    }
}

wire_struct! {
    /// What is known about a nara, inside attestations and checkpoints (docs/protocol/v1.md, section 11.1).
    pub struct Observation {
        /// The number of restarts of the nara.
        pub restarts: i64 = "restarts", omit,
        /// The total uptime, in seconds.
        pub total_uptime: i64 = "total_uptime", omit,
        /// The birth of the nara, in **seconds**.
        pub start_time: UnixSeconds = "start_time", omit,
        /// `ONLINE`, `OFFLINE` or `MISSING`.
        pub online: String = "online", omit,
        /// When it was last seen, in **seconds**.
        pub last_seen: UnixSeconds = "last_seen", omit,
        /// Its last restart, in **seconds**.
        pub last_restart: UnixSeconds = "last_restart", omit,
        /// Its cluster.
        pub cluster_name: String = "cluster_name", omit,
        /// The emoji of its cluster.
        pub cluster_emoji: String = "cluster_emoji", omit,
        /// The last round-trip time in **milliseconds**.
        pub last_ping_rtt: f64 = "last_ping_rtt", omit,
        /// The average round-trip time in **milliseconds**.
        pub avg_ping_rtt: f64 = "avg_ping_rtt", omit,
        /// When it was last pinged, in **seconds**.
        pub last_ping_time: UnixSeconds = "last_ping_time", omit,
    }
}

wire_struct! {
    /// Payload of service `checkpoint`: the agreement of several naras about one (docs/protocol/v1.md, section 11.3).
    pub struct CheckpointPayload {
        /// The version of the content string and of the attested text; 0 counts as 1.
        pub version: i64 = "version",
        /// The name of the subject.
        pub subject: String = "subject",
        /// The nara id of the subject.
        pub subject_id: String = "subject_id",
        /// The id of the checkpoint before this one.
        pub previous_checkpoint_id: String = "previous_checkpoint_id", omit,
        /// The agreed observation.
        pub observation: Observation = "observation",
        /// The time that the observation describes, in **seconds**.
        pub as_of_time: UnixSeconds = "as_of_time",
        /// The round of the vote. Covered by neither id nor signatures.
        pub round: i64 = "round",
        /// The nara ids of the voters.
        pub voter_ids: Option<Vec<String>> = "voter_ids", omit,
        /// Their signatures in the same order, base64, over attestations; see [`crate::checkpoint`].
        pub signatures: Option<Vec<String>> = "signatures", omit,
    }
}
