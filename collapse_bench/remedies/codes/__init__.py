"""What z is made of: codes out of a finite number, whose rate is what it takes to tell them."""
