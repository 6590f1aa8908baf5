module github.com/vfio-probe/vfio-probe/tests/modzip

go 1.26.0

require golang.org/x/mod v0.41.0
