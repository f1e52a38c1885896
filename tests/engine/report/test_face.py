from equipoise.engine import report


def test_every_name_of_the_face_is_there_and_documented():
    assert {"audit_table", "audit_run", "compare_runs", "write_report", "write_comparison"} <= {
        *report.__all__
    }
    assert all(getattr(report, name).__doc__ for name in report.__all__)
