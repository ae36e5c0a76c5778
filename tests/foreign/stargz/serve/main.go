// serve SOCKET ROOT: the snapshotter of stargz-snapshotter behind a socket, as its daemon containerd-stargz-grpc
// has it, which is not among Debian's packages: the library is.
package main

import (
	"context"
	"net"
	"os"

	api "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/contrib/snapshotservice"
	"github.com/containerd/stargz-snapshotter/service"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
)

func main() {
	snapshotter, err := service.NewStargzSnapshotterService(context.Background(), os.Args[2], &service.Config{})
	if err != nil {
		logrus.Fatal(err)
	}
	listener, err := net.Listen("unix", os.Args[1])
	if err != nil {
		logrus.Fatal(err)
	}
	server := grpc.NewServer()
	api.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(snapshotter))
	logrus.Fatal(server.Serve(listener))
}
