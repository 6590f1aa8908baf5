//go:build older

package kubelet

// testsOfNewer are the tests that need a kubelet of 1.36 or newer.
var testsOfNewer []namedTest
