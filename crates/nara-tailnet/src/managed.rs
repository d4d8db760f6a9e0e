//! A `tailscaled` of our own as a node: in userspace mode, supervised, with its own socket and state.
