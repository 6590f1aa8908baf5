package kubelet

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"k8s.io/klog/v2"
)

var logsFlag = flag.String("logs", "", "existing directory for the logs; without it a temporary one, which is removed if the tests pass")

// maxLog is what is kept of each log after a failure, in bytes.
const maxLog = 8 << 20

// logs is the directory of the logs: of the programs, and of the kubelet's code in this process.
var logs string

// result is what TestMain prints last.
var result struct {
	sync.Mutex
	lines []string
}

// conclude adds lines to the end of the output. Logs and the results of other tests do not hide them there.
func conclude(format string, arguments ...any) {
	result.Lock()
	defer result.Unlock()
	result.lines = append(result.lines, fmt.Sprintf(format, arguments...))
}

// resultLine begins the end of the output. The runner prints what follows.
const resultLine = "== result"

// TestMain keeps the logs of tests that fail, and prints the results last.
func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(withLogs(m.Run))
}

func withLogs(run func() int) int {
	if logs = *logsFlag; logs == "" {
		directory, err := os.MkdirTemp("", "vfio-dra-logs-")
		if err != nil {
			fmt.Println(err)
			return 1
		}
		logs = directory
	}
	_, file, err := createLog("kubelets")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	// Without the threshold errors would go to standard error, too.
	flags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(flags)
	_ = flags.Set("logtostderr", "false")
	_ = flags.Set("stderrthreshold", "FATAL")
	klog.SetOutput(file)
	code := run()
	klog.Flush()
	if code != 0 {
		boundLogs()
		conclude("logs: %s", logs)
	} else if *logsFlag == "" {
		_ = os.RemoveAll(logs)
	}
	fmt.Println(resultLine)
	for _, line := range result.lines {
		fmt.Println(line)
	}
	return code
}

// createLog creates a log with this name, or with a number after it.
func createLog(name string) (string, *os.File, error) {
	name = strings.ReplaceAll(name, "/", ".")
	for number := 1; ; number++ {
		path := filepath.Join(logs, name+".log")
		if number > 1 {
			path = filepath.Join(logs, fmt.Sprintf("%s-%d.log", name, number))
		}
		file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
		if !errors.Is(err, fs.ErrExist) {
			return path, file, err
		}
	}
}

// boundLogs leaves the last bytes of each log.
func boundLogs() {
	paths, _ := filepath.Glob(filepath.Join(logs, "*.log"))
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
			_ = os.WriteFile(path, tailOf(path, maxLog), 0o600)
		}
	}
}

// tailOf returns the last bytes of a file.
func tailOf(path string, length int64) []byte {
	file, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil && info.Size() > length {
		_, _ = file.Seek(-length, io.SeekEnd)
	}
	content, _ := io.ReadAll(io.LimitReader(file, length))
	return content
}
