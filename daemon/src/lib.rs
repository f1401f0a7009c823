//! What the processes of tartan have in common and what is no part of their work: [`logging`], the
//! [`connection`] to the API server, where to [`listen`], metrics of the [`process`] itself.
//!
//! The operator and the node agent call it. It knows neither leases nor the kernel's network.

#[cfg(feature = "connection")]
pub mod connection;
pub mod listen;
pub mod logging;
pub mod process;
#[cfg(feature = "connection")]
mod rewind;

#[cfg(feature = "connection")]
pub use rewind::WENT_BACK;

/// Content type of the text that the metrics library encodes.
pub const METRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// An error with its causes on one line. A cause that the error's own text repeats is left out.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_follow_their_error_once() {
        let inner = std::io::Error::other("no route");
        let outer = std::io::Error::other(format!("connect: {inner}"));
        assert_eq!(chain(&outer), "connect: no route");
        let plain: Box<dyn std::error::Error> = Box::new("x".parse::<u8>().unwrap_err());
        assert_eq!(chain(plain.as_ref()), "invalid digit found in string");
    }
}
