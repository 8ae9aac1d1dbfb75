//! Makes Rust of the .proto file of the SPIFFE Workload API. protox reads it, so that nobody needs protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/workload.proto");
    #[cfg(feature = "workload-api")]
    {
        let files = protox::compile(["workload.proto"], ["proto"])?;
        tonic_prost_build::configure().compile_fds(files)?;
    }
    Ok(())
}
