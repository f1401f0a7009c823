//! On the real kernel: what isn't ours stays as it is and is reported; what can't be done has a reason.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use common::{in_namespace, intent, kernel, neighbour, remote, round, run, settle};
use tartan_datapath::{
    kernel::{Kernel, Options},
    model::{Deletions, ForwardException},
};

/// What stands in the way, and what the conflict must say.
const IN_THE_WAY: [(&str, &str, &str, usize); 4] = [
    ("ip link add tartan0 type veth peer name other", "ip link show tartan0", "without our mark", 0),
    (
        "ip link add flannel.1 type vxlan id 1 dev eth0 dstport 8472 local 192.0.2.11",
        "ip link show flannel.1",
        "flannel.1 already has VNI 1",
        1,
    ),
    ("ip route add 10.64.1.0/24 via 192.0.2.99", "ip route show 10.64.1.0/24", "a route of protocol 3", 2),
    (
        "ip route add 10.250.12.0/24 dev eth0 proto static",
        "ip route show 10.250.12.0/24",
        "a route of protocol 4",
        2,
    ),
];

#[test]
fn a_foreign_object_in_the_way_is_reported_and_left_alone() {
    for (make, show, says, expected) in IN_THE_WAY {
        in_namespace(move || async move {
            run(make);
            let before = run(show);
            let folder = tempfile::tempdir().unwrap();
            let mut kernel = kernel(&folder);
            let result =
                round(&mut kernel, &intent(vec![remote(1), remote(2), neighbour(12)]), Deletions::Allowed)
                    .await;
            assert!(result.0.failures.is_empty(), "{:?}", result.0.failures);
            let conflicts: Vec<String> = result.1.conflicts.iter().map(ToString::to_string).collect();
            assert!(conflicts.len() == 1 && conflicts[0].contains(says), "{make}: {conflicts:?}");
            assert_eq!(run(show), before);
            // What doesn't need the missing object is programmed: all but what goes by, or from, a foreign bridge.
            let routes = run("ip route show proto 84").lines().count();
            assert_eq!(routes, expected, "{make}");
        });
    }
}

#[test]
fn a_forward_chain_that_drops_gets_one_exception_that_iptables_still_shows() {
    in_namespace(|| async {
        run("iptables-nft -P FORWARD DROP && iptables-nft -A FORWARD -s 192.0.2.0/24 -j ACCEPT");
        let folder = tempfile::tempdir().unwrap();
        let mut kernel = kernel(&folder);
        let mut intent = intent(vec![]);
        intent.host.forward_drop = kernel.facts().await.unwrap().forward_drop;
        assert!(intent.host.forward_drop.contains(&ForwardException::Ip));
        settle(&mut kernel, &intent).await;
        let shown = run("iptables-nft -S FORWARD");
        assert_eq!(shown.matches("tartan0").count(), 2, "{shown}");
        assert!(shown.contains("-s 192.0.2.0/24 -j ACCEPT"), "{shown}");
        // What others refuse stays refused, whether their rule was there before or came later; of ours, none
        // may be missing.
        run("iptables-nft -I FORWARD -s 203.0.113.0/24 -j DROP");
        let with_theirs = run("iptables-nft -S FORWARD");
        settle(&mut kernel, &intent).await;
        assert_eq!(run("iptables-nft -S FORWARD"), with_theirs);
        run("iptables-nft -D FORWARD 3");
        settle(&mut kernel, &intent).await;
        let repaired = run("iptables-nft -S FORWARD");
        let rules: Vec<bool> = repaired.lines().skip(1).map(|rule| rule.contains("tartan0")).collect();
        assert_eq!(rules, [false, false, true, true], "{repaired}");
        intent.host.forward_drop.clear();
        settle(&mut kernel, &intent).await;
        assert!(!run("iptables-nft -S FORWARD").contains("tartan0"));
    });
}

#[test]
fn without_the_right_to_administer_the_network_each_step_says_so() {
    in_namespace(|| async {
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    drop_capabilities();
                    let mut kernel = kernel(&folder);
                    assert!(!kernel.facts().await.unwrap().net_admin);
                    let (_, _, outcome) = round(&mut kernel, &intent(vec![]), Deletions::Allowed).await;
                    let links: Vec<_> =
                        outcome.failures.iter().filter(|f| f.step.key.kind() == "link").collect();
                    assert_eq!(links.len(), 2);
                    assert!(
                        links.iter().all(|failure| failure.error.reason() == "permission-denied"),
                        "{links:#?}"
                    );
                });
            });
        });
    });
}

/// This thread alone becomes another user and so loses all capabilities (capabilities(7)); the library's
/// own setresuid would change every thread.
#[allow(unsafe_code, reason = "the raw system call, for one thread")]
fn drop_capabilities() {
    // SAFETY: the call takes three integers and touches no memory of ours.
    let result = unsafe { nix::libc::syscall(nix::libc::SYS_setresuid, 65534, 65534, 65534) };
    assert_eq!(result, 0);
}

#[test]
fn without_the_nft_program_all_else_is_programmed() {
    in_namespace(|| async {
        let folder = tempfile::tempdir().unwrap();
        let options =
            Options { nft: "/nowhere/nft".into(), restore_dir: folder.path().into(), ..Options::default() };
        let mut kernel = Kernel::open(options).unwrap();
        assert!(!kernel.facts().await.unwrap().nft);
        let (seen, _, outcome) = round(&mut kernel, &intent(vec![remote(1)]), Deletions::Allowed).await;
        assert!(seen.failures.iter().all(|failure| failure.reason() == "nft-missing"), "{:?}", seen.failures);
        let kinds: Vec<_> = outcome
            .failures
            .iter()
            .map(|failure| (failure.step.key.kind(), failure.error.reason()))
            .collect();
        assert_eq!(kinds, [("nft-table", "nft-missing")]);
        assert!(run("ip route").contains("10.64.1.0/24"));
    });
}
