// convert LAYER.tar BLOB: a layer as eStargz; prints the digest of its table of contents and the diff id.
package main

import (
	"fmt"
	"io"
	"log"
	"os"

	"github.com/containerd/stargz-snapshotter/estargz"
)

func main() {
	layer, err := os.Open(os.Args[1])
	check(err)
	info, err := layer.Stat()
	check(err)
	blob, err := estargz.Build(io.NewSectionReader(layer, 0, info.Size()))
	check(err)
	out, err := os.Create(os.Args[2])
	check(err)
	_, err = io.Copy(out, blob)
	check(err)
	check(blob.Close())
	check(out.Close())
	fmt.Println(blob.TOCDigest(), blob.DiffID())
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
