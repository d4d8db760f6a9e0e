//! The machine's `tailscaled` as a node, through its LocalAPI.
