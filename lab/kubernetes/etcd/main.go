// Command etcd is a single etcd member for a test API server.
//
// It listens on Unix sockets only, so that any number of them run side by side, and it never waits for the disk:
// its data must survive a restart of the API server, not a power cut.
package main

import (
	"flag"
	"log"
	"net/url"
	"os"

	"go.etcd.io/etcd/server/v3/embed"
)

func main() {
	log.SetFlags(0)
	data := flag.String("data", "", "directory of the data and of the sockets client:1 and peer:1")
	flag.Parse()
	if *data == "" {
		log.Fatal("-data is required")
	}

	config := embed.NewConfig()
	// An address must look like host:port even on a Unix socket, which is then a file of that name in the current
	// directory.
	if err := os.Chdir(*data); err != nil {
		log.Fatal(err)
	}
	config.Dir = "member"
	client := []url.URL{{Scheme: "unix", Host: "client:1"}}
	peer := []url.URL{{Scheme: "unix", Host: "peer:1"}}
	config.ListenClientUrls, config.AdvertiseClientUrls = client, client
	config.ListenPeerUrls, config.AdvertisePeerUrls = peer, peer
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	config.LogLevel = "warn"
	config.UnsafeNoFsync = true

	server, err := embed.StartEtcd(config)
	if err != nil {
		log.Fatal(err)
	}
	<-server.Server.ReadyNotify()
	log.Print("ready")
	log.Fatal(<-server.Err())
}
