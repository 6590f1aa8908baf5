module github.com/vfio-probe/vfio-probe/ffi/go

go 1.24
