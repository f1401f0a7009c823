//! Where the API server is: it must stay reachable whatever the pod network covers.

use std::{net::IpAddr, time::Duration};

const PATIENCE: Duration = Duration::from_secs(5);

/// The addresses of the API server's host. None where its name has none yet: then it is not protected.
pub async fn addresses(host: &str) -> Vec<IpAddr> {
    if let Ok(address) = host.parse() {
        return vec![address];
    }
    match tokio::time::timeout(PATIENCE, tokio::net::lookup_host((host, 443))).await {
        Ok(Ok(found)) => {
            let mut addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
            addresses.sort();
            addresses.dedup();
            addresses
        }
        Ok(Err(error)) => {
            tracing::warn!(host, %error, "the API server's name has no address yet: it is not protected");
            vec![]
        }
        Err(_) => {
            tracing::warn!(host, "no answer about the API server's name: its address is not protected");
            vec![]
        }
    }
}
