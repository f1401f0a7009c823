//! Standing traffic with packet accounting; see `tartan_lab::traffic`.

fn main() -> anyhow::Result<()> {
    tartan_lab::traffic::main()
}
