// Program strike kills a process of a pod as soon as the pod has logged a line, on the node.
//
//	strike NAMESPACE_PREFIX ARGUMENT WORD...
//
// It reads the logs of the pods whose NAMESPACE_NAME begins with the prefix. The first line since its start that contains all words
// ends the process of that pod whose first argument is ARGUMENT, by SIGKILL. It prints the process and the line, and gives up after
// ten minutes.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	logs     = "/var/log/pods"
	limit    = 10 * time.Minute
	interval = 2 * time.Millisecond
)

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "usage: strike NAMESPACE_PREFIX ARGUMENT WORD...")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, "strike:", err)
		os.Exit(1)
	}
}

func run(prefix, argument string, words []string) error {
	read := map[string]int64{}
	// What was there before is read without a search.
	if _, _, err := search(prefix, nil, read); err != nil {
		return err
	}
	fmt.Println("waiting")
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(interval) {
		pod, line, err := search(prefix, words, read)
		if err != nil {
			return err
		}
		if pod == "" {
			continue
		}
		pid, err := find("/proc", pod, argument)
		if err != nil {
			return err
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			return fmt.Errorf("cannot kill process %d: %w", pid, err)
		}
		fmt.Println("killed", pid, line)
		return nil
	}
	return fmt.Errorf("no line with %q within %v", words, limit)
}

// search reads what was appended to the logs since the last search. It returns the UID of the pod and the first whole line that
// contains all words, or nothing. Without words it finds nothing.
func search(prefix string, words []string, read map[string]int64) (pod, line string, err error) {
	// Directories are named NAMESPACE_NAME_UID (BuildPodLogsDirectory in pkg/kubelet/kuberuntime/helpers.go).
	files, err := filepath.Glob(filepath.Join(logs, prefix+"*", "*", "*.log"))
	if err != nil {
		return "", "", err
	}
	for _, name := range files {
		content, err := os.ReadFile(name)
		if err != nil {
			continue // A pod that is gone meanwhile.
		}
		end := int64(strings.LastIndexByte(string(content), '\n') + 1)
		start := min(read[name], end)
		read[name] = end
		for line := range strings.Lines(string(content[start:end])) {
			if len(words) > 0 && containsAll(line, words) {
				directory := filepath.Base(filepath.Dir(filepath.Dir(name)))
				return directory[strings.LastIndexByte(directory, '_')+1:], strings.TrimSpace(line), nil
			}
		}
	}
	return "", "", nil
}

func containsAll(line string, words []string) bool {
	for _, word := range words {
		if !strings.Contains(line, word) {
			return false
		}
	}
	return true
}

// find returns the process whose cgroup names the pod and whose first argument is this one.
func find(proc, pod, argument string) (int, error) {
	directories, err := filepath.Glob(proc + "/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, directory := range directories {
		cgroup, _ := os.ReadFile(directory + "/cgroup")
		command, _ := os.ReadFile(directory + "/cmdline")
		words := strings.Split(string(command), "\x00")
		if strings.Contains(string(cgroup), "pod"+pod) && len(words) > 1 && words[1] == argument {
			return strconv.Atoi(filepath.Base(directory))
		}
	}
	return 0, fmt.Errorf("pod %s has no process with the argument %s", pod, argument)
}
