//! Measures time, with the same allocator as the program `nara-mesh`.
#![forbid(unsafe_code)]

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    nara_bench::run()
}
