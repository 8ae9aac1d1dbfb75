//! Makes the gRPC service out of `proto/ca.proto`, without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/ca.proto");
    #[cfg(feature = "grpc")]
    {
        let described = protox::compile(["proto/ca.proto"], ["proto"])?;
        tonic_prost_build::configure().build_client(false).build_transport(false).compile_fds(described)?;
    }
    Ok(())
}
