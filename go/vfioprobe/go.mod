module github.com/vfio-probe/vfio-probe/go/vfioprobe

go 1.24
