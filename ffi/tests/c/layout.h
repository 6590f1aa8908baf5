/* Asserts the layout of the records, which is part of the ABI: fields may be appended, but no field may move. */
#ifndef LAYOUT_H
#define LAYOUT_H

#include <assert.h>
#include <stddef.h>
#include <vfio_probe.h>

#define AT(record, field, offset) static_assert(offsetof(record, field) == (offset), #record "." #field " moved: the ABI is broken")
#define SIZE(record, size) static_assert(sizeof(record) == (size), #record " has a new size: add the new fields to this file")

AT(vfp_device, id, 0);
AT(vfp_device, status, 40);
AT(vfp_device, os_errno, 44);
AT(vfp_device, vendor, 48);
AT(vfp_device, device, 50);
AT(vfp_device, subsystem_vendor, 52);
AT(vfp_device, subsystem_device, 54);
AT(vfp_device, class_code, 56);
AT(vfp_device, group, 60);
AT(vfp_device, numa_node, 64);
AT(vfp_device, cdev, 68);
AT(vfp_device, kind, 72);
AT(vfp_device, sriov, 76);
AT(vfp_device, vfs, 80);
AT(vfp_device, driver, 84);
AT(vfp_device, vgpu_type, 124);
AT(vfp_device, parent, 196);
AT(vfp_device, error_text, 220);
AT(vfp_device, error_path, 540);
SIZE(vfp_device, 860);

AT(vfp_group, group, 0);
AT(vfp_group, members, 4);
AT(vfp_group, unreadable, 8);
AT(vfp_group, viable, 12);
AT(vfp_group, offender, 16);
AT(vfp_group, offender_driver, 88);
AT(vfp_group, offenders, 128);
SIZE(vfp_group, 132);

AT(vfp_member, name, 0);
AT(vfp_member, status, 72);
AT(vfp_member, os_errno, 76);
AT(vfp_member, vfio, 80);
AT(vfp_member, driver, 84);
AT(vfp_member, error_text, 124);
AT(vfp_member, error_path, 444);
AT(vfp_member, offends, 764);
SIZE(vfp_member, 768);

AT(vfp_occupancy, state, 0);
AT(vfp_occupancy, unknown_reason, 4);
AT(vfp_occupancy, os_errno, 8);
SIZE(vfp_occupancy, 16);

AT(vfp_holder, start_time, 0);
AT(vfp_holder, started, 8);
AT(vfp_holder, group, 16);
AT(vfp_holder, pid, 20);
AT(vfp_holder, uid, 24);
AT(vfp_holder, via, 28);
AT(vfp_holder, in_pod, 32);
AT(vfp_holder, command, 40);
AT(vfp_holder, pod_uid, 64);
AT(vfp_holder, container_id, 104);
SIZE(vfp_holder, 176);

AT(vfp_scan_coverage, processes, 0);
AT(vfp_scan_coverage, unreadable, 4);
AT(vfp_scan_coverage, unattributed, 8);
AT(vfp_scan_coverage, unsearched, 12);
AT(vfp_scan_coverage, pid_namespace, 16);
AT(vfp_scan_coverage, complete, 20);
SIZE(vfp_scan_coverage, 24);

AT(vfp_watch_options, interval_ms, 0);
AT(vfp_watch_options, probe_deadline_ms, 4);
AT(vfp_watch_options, flags, 8);
SIZE(vfp_watch_options, 16);

AT(vfp_event, kind, 0);
AT(vfp_event, group, 4);
AT(vfp_event, device, 8);
SIZE(vfp_event, 48);

AT(vfp_watched_group, state_age_ms, 0);
AT(vfp_watched_group, group, 8);
AT(vfp_watched_group, state, 12);
AT(vfp_watched_group, unknown_reason, 16);
AT(vfp_watched_group, os_errno, 20);
AT(vfp_watched_group, evidence, 24);
AT(vfp_watched_group, peek, 28);
AT(vfp_watched_group, members, 32);
AT(vfp_watched_group, viable, 36);
AT(vfp_watched_group, offender, 40);
AT(vfp_watched_group, offender_driver, 112);
AT(vfp_watched_group, offenders, 152);
SIZE(vfp_watched_group, 160);

AT(vfp_error, status, 0);
AT(vfp_error, os_errno, 4);
AT(vfp_error, group, 8);
AT(vfp_error, device, 16);
AT(vfp_error, text, 56);
AT(vfp_error, path, 4608);
SIZE(vfp_error, 8704);

AT(vfp_device_node, kind, 0);
AT(vfp_device_node, path, 8);
AT(vfp_device_node, device, 56);
SIZE(vfp_device_node, 96);

AT(vfp_hardware, fatal_errors, 0);
AT(vfp_hardware, presence, 8);
SIZE(vfp_hardware, 16);

SIZE(vfp_pci_id, 4);
SIZE(vfp_name, 160);

#endif
