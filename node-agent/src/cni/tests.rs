use super::*;
use crate::testing;

#[test]
fn the_conflist_names_our_bridge_and_all_subnets() {
    let mut intent = testing::intent();
    check(&intent, include_str!("testdata/one-subnet.conflist"), "one-subnet.conflist");
    intent.local.subnets.insert(0, testing::subnet("10.244.0.0/24", false));
    intent.local.subnets.push(testing::subnet("fd00:10:244:1::/64", true));
    check(&intent, include_str!("testdata/three-subnets.conflist"), "three-subnets.conflist");
}

fn check(intent: &Intent, expected: &str, name: &str) {
    let found = conflist(intent, &[], Path::new("/run/tartan/ipam"));
    assert_eq!(found, expected, "{name}");
}

#[test]
fn a_subnet_that_goes_back_is_offered_to_no_new_pod() {
    let mut intent = testing::intent();
    intent.local.subnets.push(testing::subnet("10.244.9.0/24", false));
    let request = vacate::Request {
        lease: "10.244.9.0-24".into(),
        subnet: "10.244.9.0/24".parse().unwrap(),
        since: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time("2026-01-01T00:00:00Z".parse().unwrap()),
    };
    let found = conflist(&intent, &[request], Path::new("/run/tartan/ipam"));
    assert_eq!(found, include_str!("testdata/one-subnet.conflist"));
}

#[test]
fn subnet_env_is_what_flannel_would_write() {
    let mut intent = testing::intent();
    intent.local.subnets.push(testing::subnet("fd00:10:244:1::/64", true));
    intent.entries.push("fd00:10:244::/48".parse().unwrap());
    assert_eq!(
        subnet_env(&intent),
        "# Written by tartan-node-agent.\n\
         FLANNEL_NETWORK=10.244.0.0/16\n\
         FLANNEL_SUBNET=10.244.1.1/24\n\
         FLANNEL_IPV6_NETWORK=fd00:10:244::/48\n\
         FLANNEL_IPV6_SUBNET=fd00:10:244:1::1/64\n\
         FLANNEL_MTU=1450\n\
         FLANNEL_IPMASQ=true\n"
    );
}
