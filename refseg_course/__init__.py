"""What only the course needs: exercise checks, tour, doctor, catch-up, wheelhouse, building the notebooks."""
