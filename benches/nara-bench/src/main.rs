//! Measures time: the allocator is the one that the program `nara-mesh` has.
#![forbid(unsafe_code)]

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    nara_bench::run()
}
