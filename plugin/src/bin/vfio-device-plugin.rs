//! The program. All of it is in the library, so that fuzz targets can call its parsers.

fn main() -> std::process::ExitCode {
    vfio_device_plugin::main()
}
